//! Keys and commands that could not be written.

use std::fs::File;
use std::path::Path;

use redis_migration::Error;
use redis_migration::error::show_key;
use redis_migration::tally::Reject;

use crate::summary::Log;

/// Keys that could not be written: into a CSV file, and the first few to stderr.
pub struct Rejects {
    csv: Option<csv::Writer<File>>,
    name: String,
    count: u64,
    hide_keys: bool,
    log: Log,
}

impl Rejects {
    /// So many are shown on stderr.
    const SHOWN: u64 = 5;

    /// `goes_on`: the list of an earlier part of the run is added to.
    pub fn create(
        path: Option<&Path>,
        goes_on: bool,
        hide_keys: bool,
        log: Log,
    ) -> Result<Rejects, String> {
        let name = path.map_or(String::new(), |p| p.display().to_string());
        let failed = |e: &dyn std::fmt::Display| format!("{name}: {e}");
        let open = |path| {
            let mut options = File::options();
            options.create(true);
            match goes_on {
                true => options.append(true),
                false => options.write(true).truncate(true),
            };
            options.open(path)
        };
        let file = path.map(open).transpose().map_err(|e| failed(&e))?;
        let is_begun = |file: &File| file.metadata().is_ok_and(|meta| meta.len() > 0);
        let has_names = file.as_ref().is_some_and(is_begun);
        let mut csv = file.map(csv::Writer::from_writer);
        if let Some(csv) = csv.as_mut().filter(|_| !has_names) {
            csv.write_record(["db", "key", "type", "command", "error"])
                .map_err(|e| failed(&e))?;
        }
        Ok(Rejects {
            csv,
            name,
            count: 0,
            hide_keys,
            log,
        })
    }

    pub fn add(&mut self, reject: &Reject) -> redis_migration::Result<()> {
        self.count += 1;
        let db = reject.db.map_or(String::new(), |db| db.to_string());
        if self.count <= Self::SHOWN {
            let key = show_key(&reject.key, self.hide_keys);
            let place = if db.is_empty() {
                String::new()
            } else {
                format!(" in db {db}")
            };
            // Of what a server refused in a log the type is not known.
            let what = match reject.type_name.is_empty() {
                true => &reject.command,
                false => &reject.type_name,
            };
            let space = if what.is_empty() { "" } else { " " };
            self.log.failure(&format!(
                "rejected {what}{space}{key}{place}: {}",
                reject.error
            ));
        }
        let Some(csv) = &mut self.csv else {
            return Ok(());
        };
        let shown = if self.hide_keys {
            show_key(&reject.key, true).into_bytes()
        } else {
            reject.key.clone()
        };
        let record: [&[u8]; 5] = [
            db.as_bytes(),
            &shown,
            reject.type_name.as_bytes(),
            reject.command.as_bytes(),
            reject.error.as_bytes(),
        ];
        csv.write_record(record).map_err(|e| {
            Error::io(
                format!("{} cannot be written", self.name),
                std::io::Error::other(e),
            )
        })
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Lists what is neither written nor refused.
    pub fn list(&mut self, reject: &Reject) -> redis_migration::Result<()> {
        let (count, log) = (self.count, self.log);
        // Not on stderr, and not among the refused.
        self.count = Self::SHOWN;
        let result = self.add(reject);
        (self.count, self.log) = (count, log);
        result
    }

    pub fn finish(&mut self) -> Result<u64, String> {
        if let Some(csv) = &mut self.csv {
            csv.flush()
                .map_err(|e| format!("{} cannot be written: {e}", self.name))?;
        }
        Ok(self.count)
    }
}
