//! What stands above: totals, inputs, damage.

use super::MOST_ROWS;
use super::units::{count, counted, exact, name, share, size};
use crate::report::{InputFacts, Report, Totals};

/// The beginning of a list, and how much of it is left out.
pub(super) struct Bounded<T> {
    pub(super) shown: Vec<T>,
    left_out: usize,
}

impl<T> Bounded<T> {
    pub(super) fn of(all: impl ExactSizeIterator<Item = T>, most: usize) -> Bounded<T> {
        let left_out = all.len().saturating_sub(most);
        Bounded {
            shown: all.take(most).collect(),
            left_out,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.shown.len() + self.left_out
    }

    /// How many are left out, in words; empty if none.
    pub(super) fn more(&self) -> String {
        match self.left_out {
            0 => String::new(),
            more => format!("and {} more", count(more as u64)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An input and what is wrong with it.
pub(super) struct Damage {
    pub(super) name: String,
    pub(super) sentence: String,
}

/// A figure of the first lines.
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) exact: Option<String>,
    pub(super) more: Option<String>,
}

/// A row of the table of inputs.
pub(super) struct Input {
    pub(super) name: String,
    pub(super) magic: String,
    pub(super) server: String,
    pub(super) size: String,
    pub(super) exact: String,
    pub(super) keys: String,
    pub(super) state: String,
    pub(super) damaged: bool,
}

/// What is wrong with the inputs. The table of inputs says it of each, so that a few are enough above.
pub(super) fn damage(inputs: &[InputFacts]) -> Bounded<Damage> {
    let found: Vec<Damage> = inputs
        .iter()
        .filter_map(|input| {
            Some(Damage {
                name: name(&input.name),
                sentence: name(input.damage.as_ref()?),
            })
        })
        .collect();
    Bounded::of(found.into_iter(), 5)
}

/// The inputs in order; where there are too many, the damaged ones first.
pub(super) fn inputs(inputs: &[InputFacts]) -> Bounded<Input> {
    let mut inputs: Vec<&InputFacts> = inputs.iter().collect();
    if inputs.len() > MOST_ROWS {
        inputs.sort_by_key(|input| input.damage.is_none());
    }
    let row = |input: &InputFacts| Input {
        name: name(&input.name),
        magic: name(&input.magic),
        server: match &input.server {
            Some(server) => name(server),
            None => "not said".to_owned(),
        },
        size: size(input.bytes),
        exact: exact(input.bytes),
        keys: count(input.keys),
        state: state(input),
        damaged: input.damage.is_some(),
    };
    Bounded::of(inputs.into_iter().map(row), MOST_ROWS)
}

fn state(input: &InputFacts) -> String {
    let mut state = match &input.damage {
        Some(sentence) => format!("damaged: {}", name(sentence)),
        None => "whole".to_owned(),
    };
    if input.has_log {
        let commands = counted(input.log_commands, "command");
        state.push_str(&format!("; {commands} of a log not looked at"));
    }
    if input.trailing_bytes > 0 {
        state.push_str(&format!("; {} behind its end", exact(input.trailing_bytes)));
    }
    state
}

/// The first lines.
pub(super) fn figures(report: &Report) -> Vec<Figure> {
    let totals = &report.totals;
    let error_percent = report.memory_model.error_percent;
    let figure = |name, value: String, exact, more| Figure {
        name,
        value,
        exact,
        more,
    };
    let files = counted(report.inputs.len() as u64, "file");
    vec![
        figure("Keys", count(totals.sums.keys), None, None),
        figure(
            "Bytes in file",
            size(totals.sums.bytes),
            Some(exact(totals.sums.bytes)),
            Some(format!("of {} in {files}", size(totals.file_bytes))),
        ),
        figure(
            "Memory, estimated",
            size(totals.sums.memory),
            Some(exact(totals.sums.memory)),
            Some(format!(
                "± {error_percent} %; hash tables of databases take {} more",
                size(totals.tables)
            )),
        ),
        figure("Elements", count(totals.sums.elements), None, None),
        figure(
            "Keys with expiry",
            count(totals.expiring),
            None,
            Some(match totals.expired {
                0 => share(totals.expiring, totals.sums.keys),
                expired => format!(
                    "{}; {} past",
                    share(totals.expiring, totals.sums.keys),
                    count(expired)
                ),
            }),
        ),
        figure(
            "Databases",
            count(report.dbs.len() as u64),
            None,
            match report.functions {
                0 => None,
                1 => Some("and 1 function library".to_owned()),
                more => Some(format!("and {} function libraries", count(more))),
            },
        ),
    ]
}

/// What else is to be known of the figures.
pub(super) fn notes(totals: &Totals) -> Vec<String> {
    let mut notes = Vec::new();
    let keys = |number, one, many| {
        let word = if number == 1 { one } else { many };
        format!("{} {word}", counted(number, "key"))
    };
    if totals.filtered > 0 {
        let were = keys(
            totals.filtered,
            "was not chosen and is",
            "were not chosen and are",
        );
        notes.push(format!("{were} in none of the figures."));
    }
    if totals.broken > 0 {
        let are = keys(totals.broken, "is broken: its", "are broken: their");
        notes.push(format!(
            "{are} name or value cannot be read. Where it is the value, the key is counted by its bytes."
        ));
    }
    notes
}
