//! What the kernel thinks of its clock: `adjtimex`, which no file tells.
#![expect(
    unsafe_code,
    reason = "one system call without a safe wrapper, asked in the mode that changes nothing"
)]

use std::mem::MaybeUninit;

use nix::libc;

use super::Kept;

/// Ask. Needs no right, only a process whose system calls are not fenced in.
///
/// # Errors
/// Why the kernel does not answer.
pub(super) fn ask() -> Result<Kept, String> {
    let mut answer = MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the structure is the call's own and zeroed, so `modes` is 0 and nothing is changed.
    let state = unsafe { libc::adjtimex(answer.as_mut_ptr()) };
    if state < 0 {
        return Err(format!("adjtimex: {}", std::io::Error::last_os_error()));
    }
    // SAFETY: whole numbers, for which all bit patterns are valid, and zeroed before.
    let answer = unsafe { answer.assume_init() };
    let nanos = answer.status & libc::STA_NANO != 0;
    let unit = if nanos { 1e-9 } else { 1e-6 };
    Ok(Kept {
        synchronised: state != libc::TIME_ERROR && answer.status & libc::STA_UNSYNC == 0,
        offset_secs: answer.offset as f64 * unit,
        most_error_secs: answer.maxerror as f64 * 1e-6,
        estimated_error_secs: answer.esterror as f64 * 1e-6,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_answers_with_figures_that_make_sense() {
        let kept = ask().unwrap();
        assert!(kept.offset_secs.abs() <= 0.5, "the kernel's own limit: {kept:?}");
        assert!((0.0..1e6).contains(&kept.most_error_secs), "{kept:?}");
        assert!(!kept.synchronised || kept.most_error_secs <= 16.0, "{kept:?}");
    }
}
