//! Tables whose rows have a bar, and the strip of slots.

use super::MOST_ROWS;
use super::units::{count, counted, exact, length, moment, name, share, size};
use crate::report::{Report, Slots, Sums};

/// Sums as they are shown.
pub(super) struct Cells {
    pub(super) keys: String,
    pub(super) bytes: String,
    pub(super) exact_bytes: String,
    pub(super) memory: String,
    pub(super) exact_memory: String,
}

impl Cells {
    pub(super) fn of(sums: &Sums) -> Cells {
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
pub(super) struct BarTable {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// The title where there is little room.
    pub(super) short: &'static str,
    pub(super) note: String,
    /// What it is called where no heading names it.
    pub(super) caption: &'static str,
    pub(super) heads: Vec<&'static str>,
    /// Bars are parts of all, as of types, and not of the largest row, as where the shape of a distribution matters.
    pub(super) whole: bool,
    pub(super) expiring: bool,
    pub(super) rows: Vec<BarRow>,
}

/// A row: its names, its figures and, for keys, bytes and memory, its share and its bar.
pub(super) struct BarRow {
    pub(super) names: Vec<String>,
    pub(super) sums: Sums,
    pub(super) cells: Cells,
    pub(super) expiring: Option<String>,
    pub(super) shares: (String, String, String),
    pub(super) bars: (String, String, String),
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
    pub(super) fn new(
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
            let mut names = vec![format!("and {} more", count(left_out as u64))];
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
            rows,
        }
    }

    pub(super) fn called(mut self, short: &'static str) -> BarTable {
        self.short = short;
        self
    }

    pub(super) fn with_note(mut self, note: impl Into<String>) -> BarTable {
        self.note = note.into();
        self
    }

    /// One figure more for each of the first rows.
    pub(super) fn with_expiring(mut self, expiring: impl Iterator<Item = u64>) -> BarTable {
        self.expiring = true;
        let mut expiring = expiring.fuse();
        for row in &mut self.rows {
            row.expiring = Some(expiring.next().map_or_else(String::new, count));
        }
        self
    }
}

/// The slots of a cluster as columns, and in tables.
pub(super) struct SlotStrip {
    pub(super) note: String,
    pub(super) spoken: String,
    pub(super) bars: Vec<SlotBar>,
    pub(super) largest: BarTable,
    pub(super) ranges: BarTable,
}

/// A range of slots.
pub(super) struct SlotBar {
    pub(super) title: String,
    pub(super) heights: (String, String, String),
}

impl SlotStrip {
    pub(super) fn of(slots: &Slots, totals: &Sums) -> SlotStrip {
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
                "{used}.{largest} A shard of a cluster holds ranges of slots: what is tall here is much there."
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

/// All tables with bars but those of slots, in the order of the page.
pub(super) fn tables(report: &Report) -> Vec<BarTable> {
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
