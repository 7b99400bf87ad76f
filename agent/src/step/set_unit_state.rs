//! `SetUnitState`.

use super::{
    change::{Change, Context, StepError},
    systemd::{UnitState, look_at, reload, restore_activity, restore_links, systemctl},
};

/// A unit that starts at boot or not, and runs now or not.
pub(crate) struct SetUnitState<'a> {
    pub(crate) unit: &'a str,
    pub(crate) enabled: bool,
    pub(crate) active: Option<bool>,
}

impl Change for SetUnitState<'_> {
    type Before = UnitState;

    fn probe(&self, context: &Context<'_>) -> Result<UnitState, StepError> {
        look_at(context.host, self.unit)
    }

    fn is_satisfied_by(&self, before: &UnitState) -> bool {
        let fixed = before.file == "static" && before.load == "loaded";
        (fixed || before.is_enabled() == self.enabled)
            && self.active.is_none_or(|active| active == before.active)
    }

    fn apply(&self, context: &Context<'_>, _before: &UnitState) -> Result<(), StepError> {
        let host = context.host;
        let now = look_at(host, self.unit)?;
        if now.load == "not-found" && !self.enabled {
            return Ok(());
        }
        if now.file != "static" && now.is_enabled() != self.enabled {
            let verb = if self.enabled { "enable" } else { "disable" };
            host.run_checked(&systemctl([verb, "--", self.unit]))?;
        }
        if let Some(active) = self.active.filter(|active| *active != now.active) {
            let verb = if active { "start" } else { "stop" };
            host.run_checked(&systemctl([verb, "--", self.unit]))?;
        }
        Ok(())
    }

    fn undo(&self, context: &Context<'_>, before: &UnitState) -> Result<(), StepError> {
        if self.active.is_some() {
            restore_activity(context, self.unit, before.active)?;
        }
        restore_links(context, self.unit, before)?;
        Ok(reload(context.host)?)
    }

    fn summary(&self) -> String {
        let enabled = if self.enabled { "enable" } else { "disable" };
        match self.active {
            Some(true) => format!("{enabled} and start {}", self.unit),
            Some(false) => format!("{enabled} and stop {}", self.unit),
            None => format!("{enabled} {}", self.unit),
        }
    }

    fn detail(&self, before: &UnitState) -> String {
        let file = if before.file.is_empty() { "absent" } else { &before.file };
        let active = if before.active { "running" } else { "not running" };
        format!("{} is {file} and {active}", self.unit)
    }
}
