//! The terminal form: one moving line a node (bytes, steps, elapsed), finished words above them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    News, Observer,
    news::StepState,
    plain::{Lines, render_place, render_sent, render_waiting},
};

/// Most nodes that get a line of their own; above that plain lines read better than a moving wall.
pub(super) const MOST_LINES: usize = 40;

/// One moving line a node.
#[derive(Debug)]
pub(super) struct Moving {
    multi: MultiProgress,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
    lines: Lines,
}

impl Moving {
    pub(super) fn new() -> Self {
        Self {
            multi: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            bars: Mutex::default(),
            lines: Lines::default(),
        }
    }

    fn bars(&self) -> MutexGuard<'_, BTreeMap<String, ProgressBar>> {
        self.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Show `line` above the moving ones.
    pub(super) fn print(&self, line: &str) {
        let _gone = self.multi.println(line);
    }

    /// Run `ask` with the moving lines out of the way.
    pub(super) fn suspend<T>(&self, ask: impl FnOnce() -> T) -> T {
        self.multi.suspend(ask)
    }

    fn start(&self, nodes: &[String]) {
        let width = nodes.iter().map(|node| node.chars().count()).max().unwrap_or(0);
        let mut bars = self.bars();
        for node in nodes {
            let bar = self.multi.add(ProgressBar::new(0));
            bar.set_style(style(false));
            bar.set_prefix(format!("{node:<width$}"));
            bar.enable_steady_tick(std::time::Duration::from_millis(250));
            bars.insert(node.clone(), bar);
        }
    }

    fn with(&self, node: &str, change: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = self.bars().get(node) {
            change(bar);
        }
    }

    /// Take the moving lines away.
    pub(super) fn finish(&self) {
        for bar in self.bars().values() {
            bar.finish_and_clear();
        }
        let _gone = self.multi.clear();
    }
}

/// A bar where something is counted, words only where not.
fn style(counted: bool) -> ProgressStyle {
    let template = if counted {
        "{prefix}  {bar:24} {wide_msg} {elapsed:>5}"
    } else {
        "{prefix}  {wide_msg} {elapsed:>5}"
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

impl Observer for Moving {
    fn news(&self, news: &News) {
        match news {
            News::Started { nodes, .. } => self.start(nodes),
            News::Stage { node, stage } => self.with(node, |bar| {
                bar.set_style(style(false));
                bar.set_message(stage.word());
            }),
            News::Bytes { node, sent_bytes, total_bytes } => self.with(node, |bar| {
                bar.set_style(style(true));
                bar.set_length(*total_bytes);
                bar.set_position(*sent_bytes);
                bar.set_message(render_sent(*sent_bytes, *total_bytes));
            }),
            News::Step { node, number, of, phase, step, state } => self.with(node, |bar| {
                bar.set_style(style(*of > 0));
                bar.set_length(*of as u64);
                let done = number.saturating_sub(usize::from(*state == StepState::Begun));
                bar.set_position(done as u64);
                bar.set_message(format!("{} {phase}: {step}", render_place(*number, *of)));
            }),
            News::Waiting { node, value } => {
                self.with(node, |bar| bar.set_message(render_waiting(value)));
            }
            News::Note { node, step, text } => {
                self.with(node, |bar| bar.set_message(format!("{step}: {text}")));
            }
            News::Run { .. } => {}
            News::Back { node } => self.with(node, |bar| bar.set_message("connected again")),
            News::Lost { node, .. } => {
                self.with(node, |bar| bar.set_message("connection lost; the node carries on"));
            }
            News::NodeFailed { node, .. } => {
                self.with(node, |bar| bar.abandon_with_message("failed"));
                if let Some(line) = self.lines.render(news) {
                    self.print(&line);
                }
            }
            News::Proof { .. } => {
                if let Some(line) = self.lines.render(news) {
                    self.print(&line);
                }
            }
            News::Finished { .. } => self.finish(),
        }
    }
}
