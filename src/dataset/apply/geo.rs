//! Geographic indexes, which are sorted sets: a score is longitude and latitude in 26 bits each.

use std::sync::Arc;

use super::args::{at, count, float, is, option};
use super::zset::{Add, add};
use super::{Handler, State};
use crate::dataset::value::Zset;
use crate::dataset::{Done, Fail};

pub(super) const HANDLERS: &[(&str, Handler)] = &[
    ("GEOADD", geoadd),
    ("GEOSEARCHSTORE", geosearchstore),
    ("GEORADIUS", |s, a| georadius(s, a, false)),
    ("GEORADIUSBYMEMBER", |s, a| georadius(s, a, true)),
];

/// The largest longitude and latitude that can be told, in degrees.
const LONGITUDE: f64 = 180.0;
const LATITUDE: f64 = 85.051_128_78;
/// Halvings of each.
const STEPS: u32 = 26;
const EARTH_RADIUS_M: f64 = 6_372_797.560_856;

#[derive(Clone, Copy)]
struct Point {
    longitude: f64,
    latitude: f64,
}

impl Point {
    fn parse(longitude: &[u8], latitude: &[u8]) -> Done<Point> {
        let point = Point {
            longitude: float(longitude)?,
            latitude: float(latitude)?,
        };
        match point.longitude.abs() <= LONGITUDE && point.latitude.abs() <= LATITUDE {
            true => Ok(point),
            false => Err(Fail::Refused),
        }
    }

    fn score(self) -> f64 {
        let cell = |value: f64, most: f64| {
            let part = (value + most) / (most + most);
            (part * f64::from(1u32 << STEPS)) as u32
        };
        let bits =
            spread(cell(self.latitude, LATITUDE)) | spread(cell(self.longitude, LONGITUDE)) << 1;
        bits as f64
    }

    /// The middle of the cell that a score tells.
    fn of(score: f64) -> Point {
        let bits = score as u64;
        let middle = |cell: u32, most: f64| {
            let edge =
                |cell: u32| -most + f64::from(cell) / f64::from(1u32 << STEPS) * (most + most);
            ((edge(cell) + edge(cell.wrapping_add(1))) / 2.0).clamp(-most, most)
        };
        Point {
            longitude: middle(gather(bits >> 1), LONGITUDE),
            latitude: middle(gather(bits), LATITUDE),
        }
    }

    /// Metres along the earth's surface.
    fn distance(self, other: Point) -> f64 {
        let v = ((other.longitude.radians() - self.longitude.radians()) / 2.0).sin();
        if v == 0.0 {
            return self.latitude_distance(other);
        }
        let (one, two) = (self.latitude.radians(), other.latitude.radians());
        let u = ((two - one) / 2.0).sin();
        let a = u * u + one.cos() * two.cos() * v * v;
        2.0 * EARTH_RADIUS_M * a.sqrt().asin()
    }

    fn latitude_distance(self, other: Point) -> f64 {
        EARTH_RADIUS_M * (other.latitude.radians() - self.latitude.radians()).abs()
    }
}

trait Degrees {
    fn radians(self) -> f64;
}

impl Degrees for f64 {
    fn radians(self) -> f64 {
        self * (std::f64::consts::PI / 180.0)
    }
}

/// Puts a 0 before each bit.
fn spread(n: u32) -> u64 {
    (0..32).fold(0, |all, i| all | u64::from(n >> i & 1) << (2 * i))
}

/// Takes each second bit.
fn gather(bits: u64) -> u32 {
    (0..32).fold(0, |all, i| all | ((bits >> (2 * i) & 1) as u32) << i)
}

fn geoadd(state: &mut State, args: &[&[u8]]) -> Done {
    let mut options = Add::default();
    let mut i = 2;
    while args.get(i).is_some_and(|word| options.take(word)) {
        i += 1;
    }
    let triples = args[i.min(args.len())..].chunks_exact(3);
    if !triples.remainder().is_empty() || triples.len() == 0 {
        return Err(Fail::Refused);
    }
    let pairs: Vec<(f64, &[u8])> = triples
        .map(|triple| Ok((Point::parse(triple[0], triple[1])?.score(), triple[2])))
        .collect::<Done<_>>()?;
    add(state, args[1], &pairs, &options)
}

/// What is searched.
#[derive(Clone, Copy)]
enum Shape {
    Circle { radius_m: f64 },
    Box { width_m: f64, height_m: f64 },
}

struct Search {
    center: Option<Point>,
    shape: Option<Shape>,
    unit_m: f64,
    most: Option<usize>,
    descending: bool,
    by_distance: bool,
}

impl Default for Search {
    fn default() -> Search {
        Search {
            center: None,
            shape: None,
            unit_m: 1.0,
            most: None,
            descending: false,
            by_distance: false,
        }
    }
}

fn unit_m(word: &[u8]) -> Done<f64> {
    let units = [("m", 1.0), ("km", 1000.0), ("ft", 0.3048), ("mi", 1609.34)];
    let found = units.iter().find(|(name, _)| is(word, name));
    found.map(|(_, unit)| *unit).ok_or(Fail::Refused)
}

impl Search {
    fn length(&mut self, args: &[&[u8]], i: usize, unit: usize) -> Done<f64> {
        self.unit_m = unit_m(at(args, unit)?)?;
        let length = float(at(args, i)?)?;
        match length < 0.0 {
            true => Err(Fail::Refused),
            false => Ok(length * self.unit_m),
        }
    }

    fn distance(&self, score: f64) -> Option<f64> {
        let (center, point) = (self.center?, Point::of(score));
        match self.shape? {
            Shape::Circle { radius_m } => {
                Some(center.distance(point)).filter(|distance| *distance <= radius_m)
            }
            Shape::Box { width_m, height_m } => {
                let beside = Point {
                    longitude: center.longitude,
                    latitude: point.latitude,
                };
                let inside = point.latitude_distance(center) <= height_m / 2.0
                    && point.distance(beside) <= width_m / 2.0;
                inside.then(|| center.distance(point))
            }
        }
    }

    /// Options that all commands have. Gives the place behind it, if it is one.
    fn option(&mut self, args: &[&[u8]], i: usize) -> Done<Option<usize>> {
        let word = at(args, i)?;
        match () {
            () if is(word, "ASC") => self.descending = false,
            () if is(word, "DESC") => self.descending = true,
            () if is(word, "COUNT") => {
                self.most = Some(count(at(args, i + 1)?)?).filter(|most| *most > 0);
                if self.most.is_none() {
                    return Err(Fail::Refused);
                }
                if args.get(i + 2).is_some_and(|word| is(word, "ANY")) {
                    return Err(Fail::unknown(
                        "COUNT … ANY takes what the server comes upon first",
                    ));
                }
                return Ok(Some(i + 2));
            }
            () => return Ok(None),
        }
        Ok(Some(i + 1))
    }

    fn store(&self, state: &mut State, source: &[u8], target: &[u8]) -> Done {
        let mut found: Vec<(f64, Arc<[u8]>, f64)> = Vec::new();
        if let Some(zset) = state.keys.read::<Zset>(source)? {
            for (member, score) in zset.iter() {
                if let Some(distance) = self.distance(score) {
                    found.push((distance, member.clone(), score));
                }
            }
        }
        if let Some(most) = self.most {
            found.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
            if self.descending {
                found.reverse();
            }
            if found.len() > most && most > 0 && found[most - 1].0 == found[most].0 {
                return Err(Fail::unknown(
                    "members are at the same distance, and which of them COUNT leaves out is the server's to say",
                ));
            }
            found.truncate(most);
        }
        let mut made = Zset::default();
        for (distance, member, score) in found {
            let score = match self.by_distance {
                true => distance / self.unit_m,
                false => score,
            };
            made.set(&member, score);
        }
        state.keys.store(target, made);
        Ok(())
    }
}

/// Where a member is. Errors: it is not there.
fn member(state: &State, key: &[u8], member: &[u8]) -> Done<Option<Point>> {
    let Some(zset) = state.keys.read::<Zset>(key)? else {
        return Ok(None);
    };
    let score = zset.score(member).ok_or(Fail::Refused)?;
    Ok(Some(Point::of(score)))
}

fn geosearchstore(state: &mut State, args: &[&[u8]]) -> Done {
    let mut search = Search::default();
    let source = args[2];
    state.keys.read::<Zset>(source)?;
    let mut i = 3;
    while let Some(word) = args.get(i) {
        if is(word, "FROMLONLAT") {
            search.center = Some(Point::parse(at(args, i + 1)?, at(args, i + 2)?)?);
            i += 3;
        } else if is(word, "FROMMEMBER") {
            search.center = member(state, source, at(args, i + 1)?)?;
            i += 2;
        } else if is(word, "BYRADIUS") {
            let radius_m = search.length(args, i + 1, i + 2)?;
            search.shape = Some(Shape::Circle { radius_m });
            i += 3;
        } else if is(word, "BYBOX") {
            let width_m = search.length(args, i + 1, i + 3)?;
            let height_m = search.length(args, i + 2, i + 3)?;
            search.shape = Some(Shape::Box { width_m, height_m });
            i += 4;
        } else if is(word, "STOREDIST") {
            search.by_distance = true;
            i += 1;
        } else {
            i = search.option(args, i)?.ok_or_else(|| option(word))?;
        }
    }
    search.store(state, source, args[1])
}

fn georadius(state: &mut State, args: &[&[u8]], by_member: bool) -> Done {
    let source = args[1];
    state.keys.read::<Zset>(source)?;
    let mut search = Search::default();
    let mut i;
    if by_member {
        search.center = member(state, source, args[2])?;
        i = 3;
    } else {
        search.center = Some(Point::parse(args[2], args[3])?);
        i = 4;
    }
    let radius_m = search.length(args, i, i + 1)?;
    search.shape = Some(Shape::Circle { radius_m });
    i += 2;
    let mut target = None;
    while let Some(word) = args.get(i) {
        if is(word, "STORE") || is(word, "STOREDIST") {
            search.by_distance = is(word, "STOREDIST");
            target = Some(at(args, i + 1)?);
            i += 2;
        } else if ["WITHDIST", "WITHHASH", "WITHCOORD"]
            .iter()
            .any(|with| is(word, with))
        {
            i += 1;
        } else {
            i = search.option(args, i)?.ok_or_else(|| option(word))?;
        }
    }
    // Without a target it only reads.
    target.map_or(Ok(()), |target| search.store(state, source, target))
}
