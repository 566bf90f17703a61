//! Figures and names as people read them.

pub(super) use crate::report::table::{count, size};

/// A count and its noun, which takes an s for any number but one.
pub(super) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// Bytes to the last one.
pub(super) fn exact(bytes: u64) -> String {
    counted(bytes, "byte")
}

/// A part of a whole in percent. What is there but little is told from nothing, and what is left out from all.
pub(super) fn share(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0 %".to_owned();
    }
    let percent = part as f64 * 100.0 / whole as f64;
    match percent {
        percent if part == whole => format!("{percent:.0} %"),
        percent if percent < 0.05 => "< 0.1 %".to_owned(),
        percent if percent >= 99.95 => "> 99.9 %".to_owned(),
        percent => format!("{percent:.1} %"),
    }
}

/// A part of a whole as a length in CSS. What is there at all is seen.
pub(super) fn length(part: u64, whole: u64) -> String {
    if part == 0 || whole == 0 {
        return "0".to_owned();
    }
    match part as f64 * 100.0 / whole as f64 {
        percent if percent < 1.0 => format!("max(2px,{percent:.2}%)"),
        percent => format!("{percent:.2}%"),
    }
}

/// A moment to the second, in UTC; none where the calendar has no such day.
pub(super) fn moment(unix_ms: i64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(unix_ms).ok()?;
    Some(at.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Most bytes that a name takes up in the page once it is escaped.
const NAME_BYTES: usize = 240;

/// A name on one line: characters that show nothing or turn the text around stand as their numbers, and a long name is
/// cut. The length of what it becomes in the page is what is bounded, for 10 KB of quotes become 50 KB there.
pub(super) fn name(text: &str) -> String {
    let mut out = String::new();
    let mut cost = 0;
    for ch in text.chars() {
        let start = out.len();
        if hides(ch) {
            out.push_str(&format!("\\u{{{:x}}}", u32::from(ch)));
            cost += out.len() - start;
        } else {
            out.push(ch);
            cost += match ch {
                '&' | '<' | '>' | '"' | '\'' => 5,
                _ => ch.len_utf8(),
            };
        }
        if cost > NAME_BYTES {
            out.truncate(start);
            out.push('…');
            return out;
        }
    }
    out
}

/// Whether a character has no look of its own: controls, marks of direction, joiners, tags, line ends.
fn hides(ch: char) -> bool {
    ch.is_control()
        || matches!(ch,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0e}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_not_nothing_and_nearly_all_is_not_all() {
        assert_eq!(share(0, 10), "0 %");
        assert_eq!(share(1, 100_000), "< 0.1 %");
        assert_eq!(share(99_999, 100_000), "> 99.9 %");
        assert_eq!(share(7, 7), "100 %");
        assert_eq!(share(0, 0), "0 %");
        assert_eq!(share(1, 3), "33.3 %");
    }

    #[test]
    fn a_name_hides_nothing_and_is_bounded_by_what_it_becomes() {
        assert_eq!(name("user:\u{202e}gpj.exe"), "user:\\u{202e}gpj.exe");
        assert_eq!(name("שלום"), "שלום");
        let long = name(&"\"".repeat(10_000));
        assert_eq!(long, format!("{}…", "\"".repeat(48)));
        assert_eq!(name(&"k".repeat(240)), "k".repeat(240));
        assert_eq!(name(&"k".repeat(241)), format!("{}…", "k".repeat(240)));
    }

    #[test]
    fn a_moment_that_no_calendar_has_is_none() {
        assert_eq!(
            moment(1_700_000_000_123).as_deref(),
            Some("2023-11-14 22:13:20")
        );
        assert_eq!(moment(i64::MAX), None);
    }
}
