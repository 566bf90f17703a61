//! Digests: a script reduces a value to 40 hexadecimal digits at the destination, and the same is made of the file's.
//!
//! The type stands before the digest. A string's digest is the SHA-1 of its bytes. Of the others each element becomes a text in which every part stands
//! behind its length and a colon: of lists the element, of sets the member, of sorted sets the member and the score with
//! 17 significant digits as C prints `%.17g`, of hashes the field, the value and the field's expiry in milliseconds or
//! -1. Lists: the SHA-1 of these texts behind each other. The others: of each text its SHA-1 in lower-case hexadecimal
//! digits, these sorted, and the SHA-1 of them behind each other. So no order has to be agreed upon, least of all one
//! that depends on the destination's locale.

use sha1_smol::Sha1;

use super::items::{Fields, Items};
use super::reach::Asks;
use crate::cursor::Cursor;
use crate::encoding::string::string;
use crate::error::Result;
use crate::value::{Kind as Type, Room, Templates, TypeByte};

const SCRIPT: &[u8] = b"local k=KEYS[1] local t=redis.call('TYPE',k).ok \
local function p(s) return #s..':'..s end \
if t=='string' then return t..':'..redis.sha1hex(redis.call('GET',k)) end \
local o={} \
if t=='list' then local n=redis.call('LLEN',k) \
for i=0,n-1,1000 do for _,e in ipairs(redis.call('LRANGE',k,i,i+999)) do o[#o+1]=p(e) end end \
return t..':'..redis.sha1hex(table.concat(o)) end \
if t=='set' then for _,m in ipairs(redis.call('SMEMBERS',k)) do o[#o+1]=redis.sha1hex(p(m)) end \
elseif t=='zset' then local a=redis.call('ZRANGE',k,0,-1,'WITHSCORES') \
for i=1,#a,2 do o[#o+1]=redis.sha1hex(p(a[i])..p(string.format('%.17g',tonumber(a[i+1])))) end \
elseif t=='hash' then local a=redis.call('HGETALL',k) local x={} \
if ARGV[1]=='1' then for i=1,#a,2000 do local f={} \
for j=i,math.min(i+1998,#a),2 do f[#f+1]=a[j] end \
for _,v in ipairs(redis.call('HPEXPIRETIME',k,'FIELDS',#f,unpack(f))) do x[#x+1]=v end end end \
for i=1,#a,2 do local e=x[(i+1)/2] or -1 if e<0 then e=-1 end \
o[#o+1]=redis.sha1hex(p(a[i])..p(a[i+1])..p(string.format('%.0f',e))) end \
else return t end \
table.sort(o) return t..':'..redis.sha1hex(table.concat(o))";

/// Whether there are digests of this type.
pub(super) fn has(ty: TypeByte) -> bool {
    match ty.kind() {
        Type::String | Type::List | Type::Set | Type::Zset | Type::Hash => true,
        Type::Stream | Type::Array | Type::Module | Type::Gcra | Type::PathHash => false,
    }
}

pub(super) fn ask(asks: &mut Asks, db: u64, key: &[u8], field_expiry: bool) -> usize {
    let flag: &[u8] = if field_expiry { b"1" } else { b"0" };
    asks.push(db, key, &[b"EVAL", SCRIPT, b"1", key, flag])
}

/// The digest of a value in a file.
pub(super) fn of(
    value: Cursor<'_>,
    ty: TypeByte,
    templates: &Templates,
    room: &mut Room,
    items: &mut Items,
    fields: Fields<'_>,
) -> Result<String> {
    if ty.kind() == Type::String {
        let mut c = value;
        let text = string(&mut c)?.load(&mut room.one)?;
        let mut digits = itoa::Buffer::new();
        return Ok(sum(ty, text.as_bytes(&mut digits)));
    }
    items.fill(value, ty, templates, room, fields)?;
    let mut text = Vec::new();
    let put = |out: &mut Vec<u8>, part: &[u8]| {
        out.extend_from_slice(itoa::Buffer::new().format(part.len()).as_bytes());
        out.push(b':');
        out.extend_from_slice(part);
    };
    if ty.kind() == Type::List {
        for one in items.iter() {
            put(&mut text, one.name);
        }
        return Ok(sum(ty, &text));
    }
    let mut all = Vec::with_capacity(items.len());
    for one in items.iter() {
        text.clear();
        put(&mut text, one.name);
        match ty.kind() {
            Type::Zset => {
                let score = f64::from_bits(one.number as u64);
                // What servers make of a -0 that they add to a packed sorted set is not known from here.
                put(&mut text, general(score).as_bytes());
            }
            Type::Hash => {
                put(&mut text, one.value);
                put(&mut text, itoa::Buffer::new().format(one.number).as_bytes());
            }
            _ => {}
        }
        all.push(hex(&text));
    }
    all.sort_unstable();
    Ok(sum(ty, all.concat().as_bytes()))
}

/// What is compared: values of two types may be of the same bytes.
fn sum(ty: TypeByte, bytes: &[u8]) -> String {
    format!("{}:{}", ty.kind().name(), hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    Sha1::from(bytes).digest().to_string()
}

/// A double as C prints it by `%.17g`.
fn general(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:.16e}");
    let (mantissa, exponent) = scientific
        .split_once('e')
        .expect("Rust writes an exponent where it is asked for one");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if (-4..17).contains(&exponent) {
        let decimals = usize::try_from(16 - exponent).unwrap_or(0);
        return trim(&format!("{value:.decimals$}"));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", trim(mantissa), exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_as_c_prints_them() {
        // Each text is what printf '%.17g' of the C library gives.
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.10000000000000001"),
            (3.7, "3.7000000000000002"),
            (-2.5e-5, "-2.5000000000000001e-05"),
            (0.0001, "0.0001"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (12345678901234568.0, "12345678901234568"),
            (1e22, "1e+22"),
            (5e-324, "4.9406564584124654e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(general(value), text);
        }
    }
}
