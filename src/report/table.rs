//! The report as a page of text: tables with bars.

use std::fmt::Write;

use super::{By, LargeKey, OTHER, PrefixNode, Report, Sums};

/// What the page is written for.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Columns.
    pub width: usize,
    /// Whether colours are understood.
    pub color: bool,
    /// Whether more than ASCII can be shown.
    pub unicode: bool,
    /// What bars show.
    pub by: By,
}

/// The report as text.
pub fn render(report: &Report, style: &Style) -> String {
    let mut page = Page {
        out: String::new(),
        style: *style,
        whole: style.by.of(&report.totals.sums),
    };
    page.inputs(report);
    page.totals(report);
    let rows = report.types.iter();
    page.section(
        "by type",
        rows.map(|row| (row.type_name.clone(), row.sums)).collect(),
    );
    let rows = report.encodings.iter();
    page.section(
        "by encoding",
        rows.map(|row| (format!("{} {}", row.type_name, row.encoding), row.sums))
            .collect(),
    );
    page.dbs(report);
    page.prefixes(report);
    page.expiries(report);
    if let Some(idle) = &report.idle {
        let rows = idle.buckets.iter();
        page.histogram(
            "by idle time",
            rows.map(|row| (row.label.clone(), row.sums)).collect(),
        );
    }
    if let Some(freq) = &report.freq {
        let rows = freq.buckets.iter();
        page.histogram(
            "by LFU counter",
            rows.map(|row| (row.label.clone(), row.sums)).collect(),
        );
    }
    let rows = report.sizes.buckets.iter();
    page.histogram(
        "by size of the value",
        rows.map(|row| (row.label.clone(), row.sums)).collect(),
    );
    page.slots(report);
    match style.by {
        By::Bytes | By::Keys => {
            page.largest("largest by bytes", &report.largest_by_bytes);
        }
        By::Memory => page.largest("largest by memory", &report.largest_by_memory),
    }
    page.largest("largest by elements", &report.largest_by_elements);
    page.out
}

/// Databases that are shown one by one.
const MOST_DBS: usize = 16;
/// Lines of prefixes.
const MOST_PREFIXES: usize = 40;

struct Page {
    out: String,
    style: Style,
    /// What a full bar stands for.
    whole: u64,
}

impl Page {
    fn line(&mut self, text: &str) {
        self.out.push_str(text.trim_end());
        self.out.push('\n');
    }

    fn title(&mut self, text: &str) {
        let text = self.painted("1", text);
        self.out.push('\n');
        self.line(&text);
    }

    fn painted(&self, code: &str, text: &str) -> String {
        match self.style.color && !text.is_empty() {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_owned(),
        }
    }

    fn inputs(&mut self, report: &Report) {
        for input in &report.inputs {
            let mut line = input.name.clone();
            let _ = write!(line, "  {}", size(input.bytes));
            for part in [&input.magic, input.server.as_deref().unwrap_or_default()] {
                if !part.is_empty() {
                    let _ = write!(line, ", {part}");
                }
            }
            if input.trailing_bytes > 0 {
                let bytes = count(input.trailing_bytes);
                let _ = write!(line, ", {bytes} bytes behind its end ignored");
            }
            if input.has_log {
                let commands = count(input.log_commands);
                let _ = write!(line, ", {commands} commands of a log not looked at");
            }
            self.line(&line);
            if let Some(damage) = &input.damage {
                let text = format!("  damaged: {damage}");
                let text = self.painted("31", &text);
                self.line(&text);
                self.line("  what could be read is counted");
            }
        }
    }

    fn totals(&mut self, report: &Report) {
        let totals = &report.totals;
        let sums = &totals.sums;
        self.title("totals");
        let expired = match totals.expired {
            0 => String::new(),
            some => format!(", {} of them are expired", count(some)),
        };
        let error = report.memory_model.error_percent;
        let about = if self.style.unicode { "±" } else { "+-" };
        let server = &report.memory_model.server;
        let mut lines = vec![
            (
                "keys",
                format!(
                    "{}, {} expire{expired}",
                    count(sums.keys),
                    count(totals.expiring)
                ),
            ),
            ("elements", count(sums.elements)),
            ("bytes", format!("{} in the file", size(sums.bytes))),
            (
                "memory",
                format!(
                    "{} in {server}, {about}{error} %; hash tables of databases {}",
                    size(sums.memory),
                    size(totals.tables)
                ),
            ),
        ];
        for (name, number) in [
            ("not chosen", totals.filtered),
            ("unreadable", totals.broken),
            ("functions", report.functions),
        ] {
            if number > 0 {
                lines.push((name, count(number)));
            }
        }
        for (name, text) in lines {
            self.line(&format!("  {name:<11} {text}"));
        }
    }

    /// A table with a bar for each row's share of all.
    fn section(&mut self, title: &str, rows: Vec<(String, Sums)>) {
        self.table(title, &rows, self.whole);
    }

    /// A table of ranges; empty ones at both ends are left out.
    fn histogram(&mut self, title: &str, mut rows: Vec<(String, Sums)>) {
        while rows.last().is_some_and(|(_, sums)| sums.keys == 0) {
            rows.pop();
        }
        let first = rows.iter().position(|(_, sums)| sums.keys > 0);
        rows.drain(..first.unwrap_or(0));
        self.table(title, &rows, self.whole);
    }

    fn table(&mut self, title: &str, rows: &[(String, Sums)], whole: u64) {
        if rows.is_empty() {
            return;
        }
        // The same in all tables, so that their numbers stand below each other.
        let name = if self.style.width < 100 { 22 } else { 30 };
        let title = fit(title, name + 2, self.style.unicode);
        self.title(&format!(
            "{title} {:>12} {:>9} {:>9} {:>13} {:>6}",
            "keys", "bytes", "memory", "elements", "share",
        ));
        // Behind the numbers stands the bar.
        let used = 2 + name + 1 + 12 + 1 + 9 + 1 + 9 + 1 + 13 + 1 + 6 + 1;
        let room = self.style.width.saturating_sub(used).min(40);
        for (label, sums) in rows {
            let part = self.style.by.of(sums);
            let share = share(part, whole);
            let bar = self.bar(part, whole, room);
            let label = fit(label, name, self.style.unicode);
            let line = format!(
                "  {label} {:>12} {:>9} {:>9} {:>13} {share:>6} {bar}",
                count(sums.keys),
                size(sums.bytes),
                size(sums.memory),
                count(sums.elements),
            );
            self.line(&line);
        }
    }

    /// A bar of at most `room` columns, in eighths of a column where they can be shown.
    fn bar(&self, part: u64, whole: u64, room: usize) -> String {
        if whole == 0 || room < 4 {
            return String::new();
        }
        let eighths = (u128::from(part) * room as u128 * 8 / u128::from(whole)) as usize;
        let mut bar = String::new();
        if self.style.unicode {
            for _ in 0..eighths / 8 {
                bar.push('█');
            }
            if let Some(rest) =
                ['▏', '▎', '▍', '▌', '▋', '▊', '▉'].get((eighths % 8).wrapping_sub(1))
            {
                bar.push(*rest);
            }
        } else {
            for _ in 0..(eighths + 4) / 8 {
                bar.push('#');
            }
        }
        self.painted("36", &bar)
    }

    fn dbs(&mut self, report: &Report) {
        let mut rows: Vec<(String, Sums)> = Vec::new();
        let mut rest = Sums::default();
        for (i, row) in report.dbs.iter().enumerate() {
            if i < MOST_DBS || report.dbs.len() == MOST_DBS + 1 {
                rows.push((format!("db {}", row.db), row.sums));
            } else {
                rest.add(&row.sums);
            }
        }
        if rest.keys > 0 {
            let more = report.dbs.len() - MOST_DBS;
            rows.push((format!("{} more", count(more as u64)), rest));
        }
        self.section("by database", rows);
    }

    fn prefixes(&mut self, report: &Report) {
        let prefixes = &report.prefixes;
        let mut rows = Vec::new();
        let floor = self.whole / 200;
        below(&prefixes.root, 0, floor, self.style.by, &mut rows);
        let more = rows.len().saturating_sub(MOST_PREFIXES);
        rows.truncate(MOST_PREFIXES);
        if rows.is_empty() {
            return;
        }
        self.section(&format!("by prefix ({})", prefixes.separator), rows);
        if more > 0 {
            self.line(&format!(
                "  and {} more lines in --format json",
                count(more as u64)
            ));
        }
        if prefixes.approximate {
            let (keys, bytes) = (count(prefixes.lost_error), size(prefixes.lost_bytes));
            self.line(&format!(
                "  {OTHER} holds what was given up to bound memory; each prefix may be low by {keys} keys, {bytes}"
            ));
        }
    }

    fn expiries(&mut self, report: &Report) {
        if report.totals.sums.keys == 0 {
            return;
        }
        let mut rows = vec![("no expiry".to_owned(), report.expiry.none)];
        let buckets = report.expiry.buckets.iter();
        rows.extend(
            buckets
                .filter(|row| row.sums.keys > 0)
                .map(|row| (row.label.clone(), row.sums)),
        );
        self.section("by time to live", rows);
    }

    fn slots(&mut self, report: &Report) {
        let slots = &report.slots;
        let Some(most) = &slots.most else {
            return;
        };
        self.title("by slot of a cluster");
        let (used, bytes) = (count(slots.used), size(most.sums.bytes));
        let keys = match most.sums.keys {
            1 => "1 key".to_owned(),
            keys => format!("{} keys", count(keys)),
        };
        self.line(&format!(
            "  {used} of 16,384 hold keys; the largest is {} with {keys}, {bytes}",
            most.slot
        ));
        let by = self.style.by;
        let top = slots.buckets.iter().map(|bucket| by.of(&bucket.sums)).max();
        let top = top.unwrap_or(0).max(1);
        let steps: &[char] = match self.style.unicode {
            true => &[' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
            false => &[' ', '.', ':', '-', '=', '+', '*', '#', '@'],
        };
        let line: String = slots
            .buckets
            .iter()
            .map(|bucket| {
                let part = u128::from(by.of(&bucket.sums)) * 8;
                steps[part.div_ceil(u128::from(top)) as usize]
            })
            .collect();
        let line = format!("  0 [{}] 16383", self.painted("36", &line));
        self.line(&line);
    }

    fn largest(&mut self, title: &str, keys: &[LargeKey]) {
        if keys.is_empty() {
            return;
        }
        let kinds: Vec<String> = keys
            .iter()
            .map(|key| format!("{} {}", key.type_name, key.encoding))
            .collect();
        let kind = kinds.iter().map(|kind| columns(kind)).max();
        let kind = kind.unwrap_or(0).max(14);
        let used = 2 + 5 + 1 + kind + 1 + 9 + 1 + 9 + 1 + 13 + 1 + 9 + 2;
        let room = self.style.width.saturating_sub(used).max(16);
        self.title(&format!(
            "{title:<width$} {:>9} {:>9} {:>13} {:>9}  key",
            "bytes",
            "memory",
            "elements",
            "longest",
            width = 2 + 5 + 1 + kind,
        ));
        for (key, kind_of) in keys.iter().zip(&kinds) {
            let name = short(&key.key, room, self.style.unicode);
            let line = format!(
                "  {:<5} {kind_of:<kind$} {:>9} {:>9} {:>13} {:>9}  {name}",
                format!("db {}", key.db),
                size(key.bytes),
                size(key.memory),
                count(key.elements),
                size(key.largest_element),
            );
            self.line(&line);
        }
    }
}

/// The prefixes as lines, each below the one that it belongs to. Of the longer ones those smaller than `floor` are not
/// shown, nor what of them is told together.
fn below(node: &PrefixNode, depth: usize, floor: u64, by: By, rows: &mut Vec<(String, Sums)>) {
    for child in &node.children {
        let is_small = by.of(&child.sums) < floor.max(1) || child.prefix == OTHER;
        if is_small && depth > 0 {
            continue;
        }
        rows.push((
            format!("{}{}", "  ".repeat(depth), child.prefix),
            child.sums,
        ));
        below(child, depth + 1, floor, by, rows);
    }
}

/// With a comma at every third digit.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a unit: three or four digits that count.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded to 1024 is one of the next.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

fn share(part: u64, whole: u64) -> String {
    match whole {
        0 => String::new(),
        _ => format!("{:.1}%", part as f64 * 100.0 / whole as f64),
    }
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

/// Exactly so many columns, cut in the middle where it is longer.
fn fit(text: &str, width: usize, unicode: bool) -> String {
    let text = short(text, width, unicode);
    let missing = width.saturating_sub(columns(&text));
    format!("{text}{}", " ".repeat(missing))
}

fn short(text: &str, width: usize, unicode: bool) -> String {
    let text: String = match unicode {
        true => text.to_owned(),
        // The text of a key that is no ASCII cannot be shown; JSON and CSV have it.
        false => text
            .chars()
            .map(|c| if c.is_ascii() { c } else { '?' })
            .collect(),
    };
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= width {
        return text;
    }
    let mark = if unicode { "…" } else { "..." };
    let left = width.saturating_sub(columns(mark));
    let (head, tail) = (left.div_ceil(2), left / 2);
    let head: String = chars[..head].iter().collect();
    let tail: String = chars[chars.len() - tail..].iter().collect();
    format!("{head}{mark}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1.00 KiB");
        assert_eq!(size(10 << 20), "10.0 MiB");
        assert_eq!(size((1 << 20) - 1), "1.00 MiB");
        assert_eq!(size(380_665_973), "363 MiB");
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn long_names_are_cut_in_the_middle() {
        assert_eq!(short("abcdefghij", 10, true), "abcdefghij");
        assert_eq!(short("abcdefghijk", 10, true), "abcde…hijk");
        assert_eq!(short("abcdefghijk", 10, false), "abcd...ijk");
        assert_eq!(fit("äb", 4, false), "?b  ");
    }
}
