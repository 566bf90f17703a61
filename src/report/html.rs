//! A report as a page: one file that needs no network, no server and, but for the map of prefixes and the sorting of
//! columns, no script.
//!
//! Names of keys come from whoever could write to the server, and the page is opened by an operator. Three things stand
//! between the two: the template engine escapes every text (`page.html`); the script (`page.js`) takes its data from the
//! tables of the page itself and puts texts back as `textContent` only; and the page's Content-Security-Policy lets no
//! script run but the one whose SHA-256 it names, and nothing at all be loaded.

mod tree;
mod units;

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{InputFacts, LargeKey, MemoryModel, Report, Slots, Sums, Totals};
use tree::PrefixRow;
use units::{count, counted, exact, length, moment, name, share, size};

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

/// Most prefixes in the page. With names cut to a few hundred bytes this and the limits below keep it under 2 MB.
const MOST_PREFIXES: usize = 1000;
/// Most keys in each list of the largest.
const MOST_KEYS: usize = 200;
/// Most rows of any other table: databases, types of modules, inputs.
const MOST_ROWS: usize = 200;

/// The report as one HTML file, under 2 MB whatever it holds: long lists end in a row that says how much is left out.
pub fn render(report: &Report) -> Result<String, askama::Error> {
    Page::of(report).render()
}

#[derive(Template)]
#[template(path = "page.html", config = "src/report/askama.toml")]
struct Page<'a> {
    report: &'a Report,
    title: String,
    policy: String,
    style: &'static str,
    script: &'static str,
    damage: Bounded<Damage>,
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

/// The beginning of a list, and how much of it is left out.
struct Bounded<T> {
    shown: Vec<T>,
    left_out: usize,
}

impl<T> Bounded<T> {
    fn of(all: impl ExactSizeIterator<Item = T>) -> Bounded<T> {
        let left_out = all.len().saturating_sub(MOST_ROWS);
        Bounded {
            shown: all.take(MOST_ROWS).collect(),
            left_out,
        }
    }

    fn len(&self) -> usize {
        self.shown.len() + self.left_out
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

struct Damage {
    name: String,
    sentence: String,
}

/// A figure of the first lines.
struct Figure {
    name: &'static str,
    value: String,
    exact: Option<String>,
    more: Option<String>,
}

struct Input {
    name: String,
    magic: String,
    server: String,
    size: String,
    exact: String,
    keys: String,
    state: String,
    damaged: bool,
}

/// Sums as they are shown.
struct Cells {
    keys: String,
    bytes: String,
    exact_bytes: String,
    memory: String,
    exact_memory: String,
}

impl Cells {
    fn of(sums: &Sums) -> Cells {
        Cells {
            keys: count(sums.keys),
            bytes: size(sums.bytes),
            exact_bytes: exact(sums.bytes),
            memory: size(sums.memory),
            exact_memory: exact(sums.memory),
        }
    }
}

/// A table whose rows have a bar each, for keys, bytes and memory; the reader chooses which is drawn.
struct BarTable {
    id: &'static str,
    title: &'static str,
    /// The title where there is little room.
    short: &'static str,
    note: String,
    /// What it is called where no heading names it.
    caption: &'static str,
    heads: Vec<&'static str>,
    /// Bars are parts of all, as of types, and not of the largest row, as where the shape of a distribution matters.
    whole: bool,
    expiring: bool,
    sortable: bool,
    rows: Vec<BarRow>,
}

struct BarRow {
    names: Vec<String>,
    sums: Sums,
    cells: Cells,
    expiring: Option<String>,
    shares: (String, String, String),
    bars: (String, String, String),
}

/// The share of each measure.
fn three(part: &Sums, whole: &Sums, form: impl Fn(u64, u64) -> String) -> (String, String, String) {
    (
        form(part.keys, whole.keys),
        form(part.bytes, whole.bytes),
        form(part.memory, whole.memory),
    )
}

/// The largest of each measure.
fn largest_of<'a>(all: impl Iterator<Item = &'a Sums>) -> Sums {
    all.fold(Sums::default(), |most, sums| Sums {
        keys: most.keys.max(sums.keys),
        bytes: most.bytes.max(sums.bytes),
        memory: most.memory.max(sums.memory),
        elements: most.elements.max(sums.elements),
    })
}

impl BarTable {
    fn new(
        id: &'static str,
        title: &'static str,
        heads: &[&'static str],
        totals: &Sums,
        whole: bool,
        all: Vec<(Vec<String>, Sums)>,
    ) -> BarTable {
        let scale = if whole {
            *totals
        } else {
            largest_of(all.iter().map(|(_, sums)| sums))
        };
        let mut rows: Vec<BarRow> = Vec::new();
        let mut others = Sums::default();
        let left_out = all.len().saturating_sub(MOST_ROWS);
        let row = |names, sums: Sums| BarRow {
            names,
            cells: Cells::of(&sums),
            expiring: None,
            shares: three(&sums, totals, share),
            bars: three(&sums, &scale, length),
            sums,
        };
        for (at, (names, sums)) in all.into_iter().enumerate() {
            if at < MOST_ROWS {
                rows.push(row(names, sums));
            } else {
                others.add(&sums);
            }
        }
        if left_out > 0 {
            let mut names = vec![format!("and {left_out} more")];
            names.resize(heads.len(), String::new());
            rows.push(row(names, others));
        }
        BarTable {
            id,
            title,
            short: title,
            note: String::new(),
            caption: title,
            heads: heads.to_vec(),
            whole,
            expiring: false,
            sortable: false,
            rows,
        }
    }

    fn called(mut self, short: &'static str) -> BarTable {
        self.short = short;
        self
    }

    fn with_note(mut self, note: impl Into<String>) -> BarTable {
        self.note = note.into();
        self
    }

    /// One figure more for each of the first rows.
    fn with_expiring(mut self, expiring: impl Iterator<Item = u64>) -> BarTable {
        self.expiring = true;
        let mut expiring = expiring.fuse();
        for row in &mut self.rows {
            row.expiring = Some(expiring.next().map_or_else(String::new, count));
        }
        self
    }
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

struct SlotStrip {
    note: String,
    spoken: String,
    bars: Vec<SlotBar>,
    largest: BarTable,
    ranges: BarTable,
}

struct SlotBar {
    title: String,
    heights: (String, String, String),
}

impl SlotStrip {
    fn of(slots: &Slots, totals: &Sums) -> SlotStrip {
        let most = largest_of(slots.buckets.iter().map(|bucket| &bucket.sums));
        let range = |from: u16, to: u16| format!("{} – {}", count(from.into()), count(to.into()));
        let used = match slots.used {
            1 => "1 of 16,384 slots holds keys".to_owned(),
            used => format!("{} of 16,384 slots hold keys", count(used)),
        };
        let largest = slots.most.as_ref().map_or_else(String::new, |most| {
            format!(
                " The largest by bytes is slot {} with {} and {}, {} of all bytes.",
                count(most.slot.into()),
                counted(most.sums.keys, "key"),
                size(most.sums.bytes),
                share(most.sums.bytes, totals.bytes)
            )
        });
        let rows = slots
            .largest
            .iter()
            .map(|row| (vec![count(row.slot.into())], row.sums));
        let ranges = slots
            .buckets
            .iter()
            .map(|bucket| (vec![range(bucket.from, bucket.to)], bucket.sums));
        SlotStrip {
            note: format!(
                "{used}.{largest} Where the slots of a cluster are cut evenly, an even strip is an even load."
            ),
            spoken: format!(
                "{used}, in {} ranges of slots. The figures follow in tables.",
                slots.buckets.len()
            ),
            bars: slots
                .buckets
                .iter()
                .map(|bucket| SlotBar {
                    title: format!(
                        "Slots {}: {}, {} in file, {} in memory",
                        range(bucket.from, bucket.to),
                        counted(bucket.sums.keys, "key"),
                        size(bucket.sums.bytes),
                        size(bucket.sums.memory)
                    ),
                    heights: three(&bucket.sums, &most, length),
                })
                .collect(),
            largest: BarTable::new(
                "",
                "Largest slots",
                &["Slot"],
                totals,
                false,
                rows.collect(),
            ),
            ranges: BarTable::new(
                "",
                "Ranges of slots",
                &["Slots"],
                totals,
                false,
                ranges.collect(),
            ),
        }
    }
}

impl<'a> Page<'a> {
    fn of(report: &'a Report) -> Page<'a> {
        let tables = if report.totals.sums.keys == 0 {
            Vec::new()
        } else {
            tables(report)
        };
        Page {
            title: match &report.inputs[..] {
                [input] => format!("What is in {}", name(file_name(&input.name))),
                inputs => format!("What is in {} files", count(inputs.len() as u64)),
            },
            policy: policy(),
            style: STYLE,
            script: SCRIPT,
            damage: damage(&report.inputs),
            figures: figures(report),
            notes: notes(&report.totals),
            sections: if tables.is_empty() {
                Vec::new()
            } else {
                [("prefixes", "Prefixes"), ("largest", "Largest keys")]
                    .into_iter()
                    .chain(tables.iter().map(|table| (table.id, table.short)))
                    .chain([("slots", "Slots")])
                    .collect()
            },
            inputs: inputs(&report.inputs),
            prefix_note: prefix_note(report),
            prefixes: tree::rows(&report.prefixes.root, MOST_PREFIXES),
            shades: ["below 128 B", "1 KiB", "8 KiB", "64 KiB", "more"],
            largest: largest_lists(report),
            slots: SlotStrip::of(&report.slots, &report.totals.sums),
            tables,
            report,
        }
    }
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

fn damage(inputs: &[InputFacts]) -> Bounded<Damage> {
    let found: Vec<Damage> = inputs
        .iter()
        .filter_map(|input| {
            Some(Damage {
                name: name(&input.name),
                sentence: name(input.damage.as_ref()?),
            })
        })
        .collect();
    Bounded::of(found.into_iter())
}

fn inputs(inputs: &[InputFacts]) -> Bounded<Input> {
    Bounded::of(inputs.iter().map(|input| {
        Input {
            name: name(&input.name),
            magic: name(&input.magic),
            server: input
                .server
                .as_deref()
                .map_or_else(|| "not said".to_owned(), name),
            size: size(input.bytes),
            exact: exact(input.bytes),
            keys: count(input.keys),
            state: match (&input.damage, input.has_log, input.trailing_bytes) {
                (Some(_), _, _) => "damaged".to_owned(),
                (None, true, _) => "whole; commands follow that are not counted".to_owned(),
                (None, false, 0) => "whole".to_owned(),
                (None, false, more) => format!("whole; {} follow its end", exact(more)),
            },
            damaged: input.damage.is_some(),
        }
    }))
}

fn figures(report: &Report) -> Vec<Figure> {
    let totals = &report.totals;
    let MemoryModel {
        server,
        error_percent,
        ..
    } = &report.memory_model;
    let figure = |name, value: String, exact, more| Figure {
        name,
        value,
        exact,
        more,
    };
    let files = counted(report.inputs.len() as u64, "file");
    let mut all = vec![
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
            Some(format!("± {error_percent} %, as {server} holds it")),
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
        figure("Databases", count(report.dbs.len() as u64), None, None),
    ];
    if report.functions > 0 {
        all.push(figure(
            "Function libraries",
            count(report.functions),
            None,
            None,
        ));
    }
    all
}

fn notes(totals: &Totals) -> Vec<String> {
    let mut notes = Vec::new();
    if totals.filtered > 0 {
        notes.push(format!(
            "{} not chosen and in none of the figures.",
            are(totals.filtered)
        ));
    }
    if totals.broken > 0 {
        notes.push(format!(
            "{} broken: name or value cannot be read. Where only the value is, the key is counted by its bytes.",
            are(totals.broken)
        ));
    }
    notes
}

fn are(keys: u64) -> String {
    format!(
        "{} {}",
        counted(keys, "key"),
        if keys == 1 { "is" } else { "are" }
    )
}

fn prefix_note(report: &Report) -> String {
    let prefixes = &report.prefixes;
    let mut note = format!("Parts of names end with “{}”.", name(&prefixes.separator));
    if prefixes.approximate {
        note.push_str(&format!(
            " There were more prefixes than memory was given to: any one may have lost up to {} to “{}”.",
            counted(prefixes.lost_error, "key"),
            super::OTHER
        ));
    }
    note
}

fn tables(report: &Report) -> Vec<BarTable> {
    let totals = &report.totals.sums;
    let mut all = vec![
        BarTable::new(
            "types",
            "Types",
            &["Type"],
            totals,
            true,
            report
                .types
                .iter()
                .map(|row| (vec![name(&row.type_name)], row.sums))
                .collect(),
        ),
        BarTable::new(
            "encodings",
            "Encodings",
            &["Type", "Encoding"],
            totals,
            true,
            report
                .encodings
                .iter()
                .map(|row| (vec![name(&row.type_name), name(&row.encoding)], row.sums))
                .collect(),
        )
        .with_note("As OBJECT ENCODING would name them once the file is loaded."),
        BarTable::new(
            "dbs",
            "Databases",
            &["Db"],
            totals,
            true,
            report
                .dbs
                .iter()
                .map(|row| (vec![row.db.to_string()], row.sums))
                .collect(),
        )
        .with_expiring(report.dbs.iter().take(MOST_ROWS).map(|row| row.expiring)),
    ];
    let expiry = &report.expiry;
    let at = moment(expiry.now_ms).unwrap_or_else(|| format!("{} ms", expiry.now_ms));
    let never = (vec!["no expiry".to_owned()], expiry.none);
    let buckets = expiry
        .buckets
        .iter()
        .map(|row| (vec![name(&row.label)], row.sums));
    all.push(
        BarTable::new(
            "expiry",
            "Time to live",
            &["Expires in"],
            totals,
            false,
            [never].into_iter().chain(buckets).collect(),
        )
        .called("TTL")
        .with_note(format!("Counted from {at} UTC.")),
    );
    all.push(
        BarTable::new(
            "sizes",
            "Sizes of values",
            &["Value"],
            totals,
            false,
            report
                .sizes
                .buckets
                .iter()
                .map(|row| (vec![name(&row.label)], row.sums))
                .collect(),
        )
        .called("Sizes")
        .with_note("Bytes of the value in the file."),
    );
    if let Some(idle) = &report.idle {
        all.push(
            BarTable::new(
                "idle",
                "Idle time",
                &["Not used for"],
                totals,
                false,
                idle.buckets
                    .iter()
                    .map(|row| (vec![name(&row.label)], row.sums))
                    .collect(),
            )
            .called("Idle")
            .with_note("Time since the last use when the file was written, of keys that carry it."),
        );
    }
    if let Some(freq) = &report.freq {
        all.push(
            BarTable::new(
                "freq",
                "Access frequency",
                &["Counter"],
                totals,
                false,
                freq.buckets
                    .iter()
                    .map(|row| (vec![name(&row.label)], row.sums))
                    .collect(),
            )
            .called("Frequency")
            .with_note("The logarithmic counter of an LFU policy, 0 to 255."),
        );
    }
    all
}
