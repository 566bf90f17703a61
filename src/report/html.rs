//! A report as a page: one file that needs no network, no server and, but for the map of prefixes and the sorting of
//! columns, no script.
//!
//! Names of keys come from whoever could write to the server, and the page is opened by an operator. Three things stand
//! between the two: the template engine escapes every text (`page.html`); the script (`page.js`) takes its data from the
//! tables of the page itself and puts texts back as `textContent` only; and the page's Content-Security-Policy lets no
//! script run but the one whose SHA-256 it names, and nothing at all be loaded.

mod head;
mod table;
mod tree;
mod units;

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{By, LargeKey, Report};
use head::{Bounded, Damage, Figure, Input};
use table::{BarTable, SlotStrip};
use tree::PrefixRow;
use units::{count, counted, exact, moment, name, size};

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// Most prefixes in the page. With names cut to a few hundred bytes this and the limits below keep it under 2 MB.
const MOST_PREFIXES: usize = 1000;
/// Most keys in each list of the largest.
const MOST_KEYS: usize = 200;
/// Most rows of any other table: databases, types of modules, inputs.
const MOST_ROWS: usize = 200;

/// The report as one HTML file, under 2 MB whatever it holds: long lists end in a row that says how much is left out.
/// Bars, map and largest keys begin with the measure that is asked for; the reader may choose another.
pub fn render(report: &Report, by: By) -> String {
    let page = Page::of(report, by).render();
    page.expect(
        "a template without filters of its own fails only where a String cannot be written to",
    )
}

#[derive(Template)]
#[template(path = "page.html", config = "src/report/askama.toml")]
struct Page<'a> {
    report: &'a Report,
    by: By,
    title: String,
    policy: String,
    style: &'static str,
    script: &'static str,
    created: String,
    damage: Bounded<Damage>,
    damage_count: String,
    figures: Vec<Figure>,
    notes: Vec<String>,
    sections: Vec<(&'static str, &'static str)>,
    inputs: Bounded<Input>,
    prefix_note: String,
    prefixes: Vec<PrefixRow>,
    shades: [&'static str; 5],
    largest: Vec<LargestList>,
    tables: Vec<BarTable>,
    slots: SlotStrip,
}

struct LargestList {
    id: &'static str,
    caption: String,
    keys: Vec<LargeRow>,
}

/// A key: for each figure the number to sort by, the text, and the exact figure.
struct LargeRow {
    name: String,
    db: u64,
    type_name: String,
    encoding: String,
    bytes: (u64, String, String),
    memory: (u64, String, String),
    elements: (u64, String),
    largest_element: (u64, String, String),
    expires: (String, String, bool),
}

impl LargeRow {
    fn of(key: &LargeKey, now_ms: i64) -> LargeRow {
        let bytes = |bytes| (bytes, size(bytes), exact(bytes));
        LargeRow {
            name: name(&key.key),
            db: key.db,
            type_name: name(&key.type_name),
            encoding: name(&key.encoding),
            bytes: bytes(key.bytes),
            memory: bytes(key.memory),
            elements: (key.elements, count(key.elements)),
            largest_element: bytes(key.largest_element),
            expires: match key.expires_at_ms {
                // What never expires does so after everything else.
                None => ("Infinity".to_owned(), "never".to_owned(), true),
                Some(at_ms) => {
                    let text = moment(at_ms).unwrap_or_else(|| format!("{at_ms} ms"));
                    let past = if at_ms <= now_ms { " (past)" } else { "" };
                    (at_ms.to_string(), format!("{text}{past}"), false)
                }
            },
        }
    }
}

fn largest_lists(report: &Report) -> Vec<LargestList> {
    let list = |id, words, keys: &[LargeKey]| LargestList {
        id,
        caption: match keys.len().min(MOST_KEYS) {
            1 => format!("The largest key by {words}"),
            number => format!("The {number} largest keys by {words}"),
        },
        keys: keys
            .iter()
            .take(MOST_KEYS)
            .map(|key| LargeRow::of(key, report.expiry.now_ms))
            .collect(),
    };
    [
        list("bytes", "bytes in the file", &report.largest_by_bytes),
        list("memory", "estimated memory", &report.largest_by_memory),
        list("elements", "elements", &report.largest_by_elements),
    ]
    .into_iter()
    .filter(|list| !list.keys.is_empty())
    .collect()
}

impl<'a> Page<'a> {
    fn of(report: &'a Report, by: By) -> Page<'a> {
        let tables = match report.totals.sums.keys {
            0 => Vec::new(),
            _ => table::tables(report),
        };
        let largest = largest_lists(report);
        let damage = head::damage(&report.inputs);
        Page {
            title: match &report.inputs[..] {
                [input] => format!("What is in {}", name(file_name(&input.name))),
                inputs => format!("What is in {} files", count(inputs.len() as u64)),
            },
            policy: policy(),
            style: STYLE,
            script: SCRIPT,
            created: match report.created.parse::<jiff::Timestamp>() {
                Ok(at) => at.strftime("%Y-%m-%d %H:%M UTC").to_string(),
                Err(_) => name(&report.created),
            },
            damage_count: count(damage.len() as u64),
            damage,
            figures: head::figures(report),
            notes: head::notes(&report.totals),
            sections: sections(&tables, &largest),
            inputs: head::inputs(&report.inputs),
            prefix_note: prefix_note(report),
            prefixes: tree::rows(&report.prefixes.root, MOST_PREFIXES),
            shades: ["< 128 B", "< 1 KiB", "< 8 KiB", "< 64 KiB", "larger"],
            largest,
            slots: SlotStrip::of(&report.slots, &report.totals.sums),
            tables,
            report,
            by,
        }
    }
}

/// The links to the parts of the page.
fn sections(tables: &[BarTable], largest: &[LargestList]) -> Vec<(&'static str, &'static str)> {
    if tables.is_empty() {
        return Vec::new();
    }
    let mut all = vec![("prefixes", "Prefixes")];
    if !largest.is_empty() {
        all.push(("largest", "Largest keys"));
    }
    all.extend(tables.iter().map(|table| (table.id, table.short)));
    all.push(("slots", "Slots"));
    all
}

/// What the page may do: show itself. Its script is named by its hash, so that no other can run in its place.
fn policy() -> String {
    let hash = BASE64.encode(ring::digest::digest(
        &ring::digest::SHA256,
        SCRIPT.as_bytes(),
    ));
    format!(
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'"
    )
}

/// The name without its directories: a title has little room, and the whole stands in the table of inputs.
fn file_name(path: &str) -> &str {
    path.rsplit('/')
        .find(|part| !part.is_empty())
        .unwrap_or(path)
}

fn prefix_note(report: &Report) -> String {
    let prefixes = &report.prefixes;
    let mut note = format!("Parts of names end with “{}”.", name(&prefixes.separator));
    if prefixes.approximate {
        note.push_str(&format!(
            " There were more prefixes than are kept: any one may have lost up to {} or {} to “{}”.",
            counted(prefixes.lost_error, "key"),
            size(prefixes.lost_bytes),
            super::OTHER
        ));
    }
    note
}
