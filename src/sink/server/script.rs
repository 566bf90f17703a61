//! Scripts that keep a retry from doing anything twice.

/// A part of a list: appended where the list has the length that it had before, left alone where it has the length that
/// it has afterwards. Answers the length.
///
/// KEYS: the list. ARGV: the length before, then the elements.
pub(super) const APPEND_IF: &str = "local n=redis.call('LLEN',KEYS[1]) local e=tonumber(ARGV[1]) \
if n==e then return redis.call('RPUSH',KEYS[1],unpack(ARGV,2)) end \
if n==e+#ARGV-1 then return n end \
return redis.error_reply('LISTLEN '..n)";

/// Commands of a log for one key, each of them once: whatever is numbered up to what the server remembers for the key is
/// passed over. Answers the errors of those that ran, each behind its place.
///
/// `PEXPIREAT key ms XX` is run in words that servers before 7.0 know as well: a script of its own, which says the same to
/// them elsewhere, cannot run inside this one.
///
/// KEYS: the key. ARGV: the hash that remembers, then for each command its number, its count of arguments, and these.
pub(super) const GUARD: &str = "local h,k,n=ARGV[1],KEYS[1],#ARGV \
local s=tonumber(redis.call('HGET',h,k) or '0') local i,l,o=2,0,{} \
while i<=n do l=ARGV[i] i=i+2+tonumber(ARGV[i+1]) end \
if tonumber(l)<=s then return o end \
redis.call('HSET',h,k,l) i=2 \
while i<=n do local c=tonumber(ARGV[i+1]) \
if tonumber(ARGV[i])>s then local r=0 \
if c==4 and ARGV[i+2]=='PEXPIREAT' and ARGV[i+5]=='XX' then \
if redis.call('PTTL',k)>=0 then r=redis.pcall('PEXPIREAT',k,ARGV[i+4]) end \
else r=redis.pcall(unpack(ARGV,i+2,i+1+c)) end \
if type(r)=='table' and r.err then o[#o+1]=ARGV[i]..' '..r.err end end \
i=i+2+c end return o";

/// Removes what [`GUARD`] remembered on the server that a key leads to.
///
/// KEYS: any key of that server. ARGV: the hash.
pub(super) const FORGET: &str = "return redis.call('DEL',ARGV[1])";

/// A script's name for EVALSHA.
pub(super) fn sha1(script: &str) -> String {
    sha1_smol::Sha1::from(script).digest().to_string()
}
