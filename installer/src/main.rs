//! `kdc-install`: parse, run, say what went wrong, end with the exit code it stands for.

use std::process::ExitCode;

use clap::Parser;
use kdc_install::{command, show};

fn main() -> ExitCode {
    let cli = command::Cli::parse();
    command::set_up(&cli);
    let look = cli.look();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let complaint = command::CommandError::Runtime(error).into();
            show::Screen::new(look, 0, false).complain(&complaint);
            return show::Exit::Internal.into();
        }
    };
    let done = runtime.block_on(command::run(cli));
    // Ctrl-C must not wait for a bundle that is being proved or a question that nobody answers.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            show::Screen::new(look, 0, false).complain(&complaint);
            complaint.exit.into()
        }
    }
}
