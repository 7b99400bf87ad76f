//! `DisableSwap`: now with `swapoff`, at every boot by commenting out fstab's lines.

use serde::{Deserialize, Serialize};

use super::{
    change::{Change, Context, StepError},
    snapshot::{PathState, look, restore},
};
use crate::host::{Attributes, Host, Program};

const FSTAB: &str = "/etc/fstab";

/// How a line that we commented out begins.
const MARK: &str = "#kdc# ";

/// No swap.
pub(crate) struct DisableSwap;

/// What stood there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Before {
    /// Active swap: path and priority.
    active: Vec<(String, i32)>,
    fstab: PathState,
    /// fstab has swap lines.
    listed: bool,
}

/// Active swap devices and files with their priority, from `/proc/swaps`.
fn active(host: &dyn Host) -> Result<Vec<(String, i32)>, StepError> {
    let text = host.read_text("/proc/swaps")?.unwrap_or_default();
    let parse = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        Some((fields.first()?.replace("\\040", " "), fields.last()?.parse().ok()?))
    };
    Ok(text.lines().skip(1).filter_map(parse).collect())
}

fn is_swap_line(line: &str) -> bool {
    let line = line.trim_start();
    !line.starts_with('#') && line.split_whitespace().nth(2) == Some("swap")
}

/// fstab with its swap lines commented out.
fn without_swap(fstab: &str) -> String {
    let comment =
        |line: &str| if is_swap_line(line) { format!("{MARK}{line}") } else { line.to_owned() };
    fstab.split('\n').map(comment).collect::<Vec<_>>().join("\n")
}

impl Change for DisableSwap {
    type Before = Before;

    fn probe(&self, context: &Context<'_>) -> Result<Before, StepError> {
        let text = context.host.read_text(FSTAB)?.unwrap_or_default();
        let listed = text.lines().any(is_swap_line);
        Ok(Before { active: active(context.host)?, fstab: look(context, FSTAB)?, listed })
    }

    fn is_satisfied_by(&self, before: &Before) -> bool {
        before.active.is_empty() && !before.listed
    }

    fn apply(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        let host = context.host;
        if let PathState::File { attributes, .. } = &before.fstab {
            let text = host.read_text(FSTAB)?.unwrap_or_default();
            let wanted = without_swap(&text);
            if wanted != text {
                let Attributes { mode, uid, gid } = *attributes;
                host.write(FSTAB, wanted.as_bytes(), Attributes { mode, uid, gid })?;
            }
        }
        for (path, _) in active(host)? {
            host.run_checked(&Program::new("swapoff").args(["--", &path]).within_secs(600))?;
        }
        Ok(())
    }

    fn undo(&self, context: &Context<'_>, before: &Before) -> Result<(), StepError> {
        restore(context, FSTAB, &before.fstab)?;
        let now = active(context.host)?;
        for (path, priority) in &before.active {
            if now.iter().any(|(active, _)| active == path) {
                continue;
            }
            let mut program = Program::new("swapon");
            // The kernel hands out negative priorities itself; only others can be asked for.
            if *priority >= 0 {
                program = program.arg("-p").arg(priority.to_string());
            }
            context.host.run_checked(&program.args(["--", path]))?;
        }
        Ok(())
    }

    fn summary(&self) -> String {
        "turn swap off".to_owned()
    }

    fn detail(&self, before: &Before) -> String {
        let paths: Vec<&str> = before.active.iter().map(|(path, _)| path.as_str()).collect();
        match (paths.is_empty(), before.listed) {
            (true, _) => format!("comments out the swap lines of {FSTAB}"),
            (false, _) => format!("turns off swap on {}", paths.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_swap_lines_of_fstab_are_commented_out() {
        let fstab = "# swap\nUUID=1 / ext4 defaults 0 1\n/swap none swap sw 0 0\n";
        let expected = "# swap\nUUID=1 / ext4 defaults 0 1\n#kdc# /swap none swap sw 0 0\n";
        assert_eq!(without_swap(fstab), expected);
        assert_eq!(without_swap(expected), expected);
    }
}
