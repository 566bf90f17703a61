//! One record of CSV for each key.

use super::measure::Encoding;
use super::{Sums, shown};
use crate::error::{Error, Result};
use crate::rdb::keys::Seen;

/// The names of the columns.
///
/// A key is text: a backslash is doubled, and bytes that are no UTF-8, and control characters, are `\xNN`. So every key
/// can be had back, and every record is one line. `expires_at_ms` is empty where a key has no expiry.
pub const COLUMNS: [&str; 9] = [
    "db",
    "key",
    "type",
    "encoding",
    "bytes",
    "memory",
    "elements",
    "largest_element",
    "expires_at_ms",
];

/// The line with the names of the columns.
pub fn head() -> String {
    format!("{}\n", COLUMNS.join(","))
}

/// The records of a task.
pub(super) struct Rows {
    csv: csv::Writer<Vec<u8>>,
    hide_keys: bool,
}

impl Rows {
    pub fn new(hide_keys: bool) -> Rows {
        Rows {
            csv: csv::Writer::from_writer(Vec::new()),
            hide_keys,
        }
    }

    pub fn add(
        &mut self,
        seen: &Seen<'_, '_>,
        type_name: &str,
        encoding: Encoding,
        sums: &Sums,
        largest_element: u64,
    ) -> Result<()> {
        let key = shown(seen.name, self.hide_keys);
        let mut buffers: [itoa::Buffer; 6] = Default::default();
        let [db, bytes, memory, elements, largest, expiry] = &mut buffers;
        let expires_at_ms = seen.record.attributes.expire_at_ms;
        let record = [
            db.format(seen.db),
            &key,
            type_name,
            encoding.name(),
            bytes.format(sums.bytes),
            memory.format(sums.memory),
            elements.format(sums.elements),
            largest.format(largest_element),
            expires_at_ms.map_or("", |ms| expiry.format(ms)),
        ];
        let written = self.csv.write_record(record);
        written.map_err(|e| Error::io("a record of CSV", std::io::Error::other(e)))
    }

    pub fn end(self) -> Vec<u8> {
        self.csv.into_inner().expect("memory can be written")
    }
}
