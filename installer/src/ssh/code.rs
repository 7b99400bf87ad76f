//! The stable code of each way SSH to a node fails, and which ways connecting again may mend.

use super::SshError;

impl SshError {
    /// Stable code, listed in `docs/errors.md`.
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Config { .. } => "SSH-001",
            Self::Settings { .. } => "SSH-002",
            Self::NoAddress { .. } => "SSH-003",
            Self::NoRoute { .. } => "SSH-004",
            Self::Refused { .. } => "SSH-005",
            Self::Timeout { .. } => "SSH-006",
            Self::NotSsh { .. } => "SSH-007",
            Self::NoCommonAlgorithm { .. } => "SSH-008",
            Self::UnknownHostKey { .. } => "SSH-010",
            Self::ChangedHostKey { .. } => "SSH-011",
            Self::RevokedHostKey { .. } => "SSH-012",
            Self::BadHostCertificate { .. } => "SSH-013",
            Self::Store { .. } => "SSH-014",
            Self::LoginRefused { .. } => "SSH-020",
            Self::Passphrase { .. } => "SSH-021",
            Self::KeyFile { .. } => "SSH-022",
            Self::JumpRefused { .. } => "SSH-023",
            Self::NoShell { .. } => "SSH-024",
            Self::NoSudo { .. } => "SSH-025",
            Self::SudoPassword { .. } => "SSH-026",
            Self::WrongSudoPassword { .. } => "SSH-027",
            Self::NotSudoer { .. } => "SSH-028",
            Self::DiskFull { .. } => "SSH-030",
            Self::NoExec { .. } => "SSH-031",
            Self::Damaged { .. } => "SSH-032",
            Self::NoProgram { .. } => "SSH-033",
            Self::AgentSilent { .. } => "SSH-034",
            Self::Protocol { .. } => "SSH-035",
            Self::Lost { .. } => "SSH-040",
            Self::Deadline { .. } => "SSH-041",
            Self::Unexpected { .. } => "SSH-042",
            Self::Source { .. } => "SSH-043",
            Self::Agent { failure, .. } => &failure.code,
        }
    }

    /// True where connecting again may help: the link was cut, the node reboots.
    #[must_use]
    pub fn is_link(&self) -> bool {
        matches!(
            self,
            Self::Lost { .. }
                | Self::NoRoute { .. }
                | Self::Refused { .. }
                | Self::Timeout { .. }
                | Self::Deadline { .. }
                | Self::JumpRefused { .. }
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// Codes as `"SSH-nnn"` in the source above the tests.
    fn codes() -> Vec<&'static str> {
        let source = include_str!("code.rs");
        let source = source.split("#[cfg(test)]").next().unwrap();
        source.split('"').filter(|part| part.starts_with("SSH-")).collect()
    }

    #[test]
    fn every_code_is_used_once_and_is_in_the_docs() {
        let codes = codes();
        assert!(codes.len() > 20, "{codes:?}");
        assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len());
        let docs = include_str!("../../../docs/errors.md");
        for code in codes {
            assert!(docs.contains(&format!("| {code} |")), "{code} is not in docs/errors.md");
        }
    }
}
