//! The words of redis-check-rdb and redis-check-aof, for those who look for just these.

use super::Fault;
use crate::error::{ErrorKind, KEY_SHOWN, show_key};
use crate::value::TypeByte;

/// What was being read when something was found to be broken, as redis-check-rdb calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// The magic.
    Start,
    /// A type or an opcode.
    ReadType,
    /// A key's name.
    ReadKey,
    /// A key's value.
    ReadObjectValue,
    /// The checksum.
    CheckSum,
    /// An AUX field.
    ReadAux,
    /// A function library.
    ReadFunctions,
}

impl Doing {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Doing::Start => "start",
            Doing::ReadType => "read-type",
            Doing::ReadKey => "read-key",
            Doing::ReadObjectValue => "read-object-value",
            Doing::CheckSum => "check-sum",
            Doing::ReadAux => "read-aux",
            Doing::ReadFunctions => "read-functions",
        }
    }

    /// What was being read where a walk over the whole file broke off.
    pub fn of(error: &crate::Error) -> Doing {
        match error.kind() {
            ErrorKind::Checksum { .. } => Doing::CheckSum,
            ErrorKind::NotRdb { .. } | ErrorKind::UnknownVersion { .. } | ErrorKind::Vkcs => {
                Doing::Start
            }
            _ if error.key().is_some() => Doing::ReadObjectValue,
            _ => Doing::ReadType,
        }
    }
}

/// The block that redis-check-rdb prints of such a fault, line by line. Where it would tell a line of its own source, our
/// sentence stands.
pub fn rdb_error(fault: &Fault, hide_keys: bool) -> Vec<String> {
    let error = &fault.error;
    let offset = error.at().map_or(0, |at| at.offset);
    let what = match error.kind() {
        ErrorKind::Truncated { .. } | ErrorKind::BadCount { .. } => {
            "Unexpected EOF reading RDB file".to_owned()
        }
        ErrorKind::Checksum { .. } => "RDB CRC error".to_owned(),
        ErrorKind::NotRdb { .. } => "Wrong signature trying to load DB from file".to_owned(),
        ErrorKind::UnknownVersion { magic } => {
            let digits: String = magic.chars().filter(char::is_ascii_digit).collect();
            let version = digits.trim_start_matches('0');
            format!("Can't handle RDB format version {version}")
        }
        ErrorKind::UnknownType { byte, .. } | ErrorKind::TypeSince { byte, .. } => {
            format!("Invalid object type: {byte}")
        }
        kind => format!("Internal error in RDB reading offset {offset}: {kind}"),
    };
    let mut lines = vec![
        "--- RDB ERROR DETECTED ---".to_owned(),
        format!("[offset {offset}] {what}"),
        format!("[additional info] While doing: {}", fault.doing.name()),
    ];
    if let Some(key) = error.key() {
        let name = if hide_keys {
            show_key(&key.key, true)
        } else {
            key.key[..key.key.len().min(KEY_SHOWN)]
                .escape_ascii()
                .to_string()
        };
        lines.push(format!("[additional info] Reading key '{name}'"));
        match fault.type_byte {
            Some(byte) => lines.push(format!(
                "[additional info] Reading type {byte} ({})",
                type_name(byte, key.rdb_version.is_some_and(|version| version >= 80))
            )),
            None => lines.push(format!("[additional info] Reading type {}", key.type_name)),
        }
    }
    lines
}

/// A type as redis-check-rdb names it; newer ones as TYPE does.
fn type_name(byte: u8, valkey: bool) -> &'static str {
    use TypeByte::*;
    let Some(ty) = TypeByte::from_byte(byte, valkey) else {
        return "unknown";
    };
    match ty {
        String => "string",
        List => "list-linked",
        Set => "set-hashtable",
        Zset => "zset-v1",
        Hash => "hash-hashtable",
        Zset2 => "zset-v2",
        Module2 => "module-value",
        HashZipmap => "hash-zipmap",
        ListZiplist => "list-ziplist",
        SetIntset => "set-intset",
        ZsetZiplist => "zset-ziplist",
        HashZiplist => "hash-ziplist",
        ListQuicklist => "quicklist",
        StreamListpacks => "stream",
        HashListpack => "hash-listpack",
        ZsetListpack => "zset-listpack",
        ListQuicklist2 => "quicklist-v2",
        StreamListpacks2 => "stream-v2",
        SetListpack => "set-listpack",
        StreamListpacks3 => "stream-v3",
        HashMetadataPreGa => "hash-hashtable-md-pre-release",
        HashListpackExPreGa => "hash-listpack-md-pre-release",
        HashMetadata => "hash-hashtable-md",
        HashListpackEx => "hash-listpack-md",
        Hash2 => "hash-volatile-items",
        StreamListpacks4
        | StreamListpacks5
        | Array
        | HashTemplateListpack
        | HashTemplateListpackRef
        | HashTemplateArray
        | HashTemplateArrayRef
        | Gcra
        | PathHash => ty.kind().name(),
    }
}
