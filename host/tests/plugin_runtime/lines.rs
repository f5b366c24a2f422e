//! Log lines of this process, for tests.

use std::{
    fmt::{Debug, Write},
    sync::{Mutex, Once},
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// What plugins have logged, and what was logged about their failures and rejections, and about providers without a plugin.
static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

#[derive(Clone, Default)]
struct Line {
    /// A plugin's tag, or a provider.
    about: String,
    message: String,
}

/// Records lines from now on. Tests run in parallel, so each must use a plugin of its own.
pub(crate) fn keep() {
    static BEGUN: Once = Once::new();
    BEGUN.call_once(|| tracing::subscriber::set_global_default(Keeper).unwrap());
}

/// Returns the lines that carry this plugin's tag, or this provider.
pub(crate) fn of(name: &str) -> Vec<String> {
    let lines = LINES.lock().unwrap();
    let wanted = lines.iter().filter(|line| line.about == name);
    wanted.map(|line| line.message.clone()).collect()
}

struct Keeper;

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_wanted = matches!(
            metadata.target(),
            "sendflowr_host::plugin::log" | "sendflowr_host::rejected" | "sendflowr_host::server"
        );
        metadata.is_event() && is_wanted
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        LINES.lock().unwrap().push(line);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "plugin" | "provider" => write!(self.about, "{value:?}").unwrap(),
            "message" => write!(self.message, "{value:?}").unwrap(),
            _ => {}
        }
    }
}
