//! Opcodes by Redis's names, with the RDB version that brought each (FORMAT §3.1).

/// End of the file, RDB 1.
pub const EOF: u8 = 255;
/// The following keys' database, RDB 1.
pub const SELECTDB: u8 = 254;
/// The next key's expiry in seconds, RDB 1.
pub const EXPIRETIME: u8 = 253;
/// The next key's expiry in milliseconds, RDB 3.
pub const EXPIRETIME_MS: u8 = 252;
/// Number of keys in the database, a hint, RDB 7.
pub const RESIZEDB: u8 = 251;
/// Name and value about the file, RDB 7.
pub const AUX: u8 = 250;
/// The next key's access frequency, RDB 9.
pub const FREQ: u8 = 249;
/// The next key's idle time, RDB 9.
pub const IDLE: u8 = 248;
/// Data of a module that belongs to no key, RDB 9.
pub const MODULE_AUX: u8 = 247;
/// Function library of 7.0 rc1 and rc2, RDB 10.
pub const FUNCTION_PRE_GA: u8 = 246;
/// Function library, RDB 10.
pub const FUNCTION2: u8 = 245;
/// Size of a cluster slot, a hint, RDB 12.
pub const SLOT_INFO: u8 = 244;
/// The next key's module metadata, RDB 13 of Redis.
pub const KEY_META: u8 = 243;
/// A slot import under way, RDB 80 of Valkey.
pub const SLOT_IMPORT: u8 = 243;
/// Field names shared by hashes, RDB 15 of Redis.
pub const HASH_TEMPLATE: u8 = 242;
/// A command within a replication stream, RDB 81 of Valkey.
pub const UPDATE: u8 = 242;
/// Redis Enterprise: LRU hint before a key.
pub const ENTERPRISE_LRU: u8 = 107;
/// Redis Enterprise: slot number before a key.
pub const ENTERPRISE_SLOT: u8 = 121;
