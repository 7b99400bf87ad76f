//! The child process that loads NVML, asked and ordered through the host's door.

use crate::{
    gpu::mig::{Answer, CutGpu, GpuOrders, Question},
    host::{Host, HostError, Program},
    step::change::StepError,
};

/// This program itself, also while an update replaces its file.
const SELF: &str = "/proc/self/exe";

/// Longest look: a driver that is loaded for it takes half a minute on large servers.
const LOOK_SECS: u64 = 120;

/// Longest change: a reset takes seconds for each GPU.
const CHANGE_SECS: u64 = 240;

fn ask(host: &dyn Host, question: &Question, within_secs: u64) -> Result<Answer, StepError> {
    let input = serde_json::to_vec(question).map_err(|error| StepError::Format {
        what: "a question about GPUs".to_owned(),
        reason: error.to_string(),
    })?;
    let program =
        Program::new(SELF).arg("gpu-instances").with_input(input).within_secs(within_secs);
    let output = host.run_checked(&program)?;
    match serde_json::from_slice(&output.stdout) {
        Ok(Answer::Refused { library }) => Err(StepError::Refused {
            what: format!("NVIDIA's driver can't be asked: {}", library.in_words()),
            hint: library.hint().map_or_else(
                || "look at `dmesg` and `nvidia-smi` on the node".to_owned(),
                str::to_owned,
            ),
        }),
        Ok(answer) => Ok(answer),
        Err(error) => {
            Err(HostError::Answer { program: program.line(), reason: error.to_string() }.into())
        }
    }
}

fn out_of_turn() -> StepError {
    StepError::Format {
        what: "the answer of `gpu-instances`".to_owned(),
        reason: "it is one to another question".to_owned(),
    }
}

/// Every GPU of this node.
pub(super) fn look(host: &dyn Host) -> Result<Vec<CutGpu>, StepError> {
    match ask(host, &Question::Look, LOOK_SECS)? {
        Answer::Seen { gpus } => Ok(gpus),
        _ => Err(out_of_turn()),
    }
}

/// Carry out orders, if there are any.
pub(super) fn change(host: &dyn Host, orders: Vec<GpuOrders>) -> Result<(), StepError> {
    if orders.is_empty() {
        return Ok(());
    }
    match ask(host, &Question::Change(orders), CHANGE_SECS)? {
        Answer::Done => Ok(()),
        Answer::Stopped { doing, reason } => Err(StepError::Refused {
            what: format!("the driver would not {doing}: {reason}"),
            hint: "look at `dmesg` and `nvidia-smi mig -lgi` on the node".to_owned(),
        }),
        _ => Err(out_of_turn()),
    }
}
