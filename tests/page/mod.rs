//! The page of a report in a real browser: that it shows what the report says, to whoever looks at it in whichever way,
//! and that it does nothing else.
//!
//! `PAGE_PICTURES=DIR cargo test --test main page::` also writes pictures of it, for a person to look at.

mod readers;
mod trust;

use std::path::{Path, PathBuf};

use redis_migration::report::{By, LargeKey, Report, html};

use serde_json::json;

use crate::support::browser::Browser;
use crate::support::cli::run;
use crate::support::client::call;
use crate::support::server::Server;
use crate::support::{reports, text};

/// A report as a file that a browser can open.
struct Page {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Page {
    fn of(report: &Report) -> Page {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("report.html");
        std::fs::write(&path, html::render(report, By::Memory)).expect("a file");
        Page { _dir: dir, path }
    }
}

const DESKTOP: (u32, u32) = (1200, 900);
const PHONE: (u32, u32) = (360, 740);

/// A browser of a desktop's size that shows the page, which has not complained and has asked for nothing but itself.
fn shown(path: &Path) -> Browser {
    let mut browser = Browser::start();
    browser.resize(DESKTOP.0, DESKTOP.1, false);
    browser.open(path);
    is_quiet(&mut browser, path);
    browser
}

fn is_quiet(browser: &mut Browser, path: &Path) {
    assert_eq!(browser.complaints(), [""; 0]);
    assert_eq!(browser.requests(), [format!("file://{}", path.display())]);
}

/// The tiles of the map as they are seen: name and area in pixels.
fn tiles(browser: &mut Browser) -> Vec<(String, f64)> {
    let tiles = browser.evaluate(
        "[...document.querySelectorAll('#tiles > .tile')].map((tile) => { \
         const r = tile.getBoundingClientRect(); return [tile.node.name, r.width * r.height]; })",
    );
    serde_json::from_value(tiles).expect("names and areas")
}

/// The path above the map.
fn crumbs(browser: &mut Browser) -> String {
    browser
        .texts("[...document.querySelectorAll('#crumbs li')].map((item) => item.textContent)")
        .join(" > ")
}

fn tile(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('#tiles > .tile')].find((tile) => tile.node.name === '{name}')"
    )
}

/// Each tile's area is its part of the map, to a half percent of the map, and together they fill it.
fn areas_are(browser: &mut Browser, expected: &[(&str, f64)]) {
    let whole: f64 = expected.iter().map(|(_, part)| part).sum();
    let map = browser.evaluate("document.getElementById('tiles').clientWidth * document.getElementById('tiles').clientHeight");
    let map = map.as_f64().expect("an area");
    let found = tiles(browser);
    let names = |list: Vec<&str>| list.join(" ");
    assert_eq!(
        names(found.iter().map(|(name, _)| name.as_str()).collect()),
        names(expected.iter().map(|(name, _)| *name).collect())
    );
    for ((name, area), (_, part)) in found.iter().zip(expected) {
        let (is, should) = (area / map, part / whole);
        assert!(
            (is - should).abs() < 0.005,
            "{name} has {is} of the map and should have {should}"
        );
    }
    let sum: f64 = found.iter().map(|(_, area)| area / map).sum();
    assert!((sum - 1.0).abs() < 0.005, "the tiles fill {sum} of the map");
}

#[test]
fn areas_of_the_map_are_shares_of_the_measure_that_is_chosen() {
    let page = Page::of(&reports::shop());
    let mut browser = shown(&page.path);
    let by_memory = [
        ("session:", 450.0),
        ("queue:", 250.0),
        ("product:", 140.0),
        ("cart:", 45.0),
        ("(other)", 8.0),
        ("lock:", 5.0),
        // The prefixes hold 898 of 900 MB: the rest is of keys whose names have one part only.
        ("(single keys)", 2.0),
    ];
    areas_are(&mut browser, &by_memory);
    browser.click("document.getElementById('by-keys')");
    let by_keys = [
        ("session:", 800.0),
        ("cart:", 200.0),
        ("product:", 150.0),
        ("lock:", 30.0),
        ("(other)", 15.0),
        // Forty keys in queues and 4,960 with names of one part.
        ("(smaller)", 5.0),
    ];
    // By keys a queue is so small that it could not be touched: it shares a tile.
    areas_are(&mut browser, &by_keys);
    browser.click("document.getElementById('by-bytes')");
    browser.click(&tile("session:"));
    assert_eq!(crumbs(&mut browser), "all keys > session:");
    areas_are(
        &mut browser,
        &[
            ("web:", 150.0),
            ("app:", 80.0),
            ("api:", 8.0),
            ("(single keys)", 2.0),
        ],
    );
    is_quiet(&mut browser, &page.path);
}

#[test]
fn a_prefix_is_opened_and_left_by_mouse_and_by_keys() {
    let page = Page::of(&reports::shop());
    let mut browser = shown(&page.path);
    let focused = "document.activeElement.node.name";
    browser.click(&tile("session:"));
    browser.click(&tile("app:"));
    assert_eq!(crumbs(&mut browser), "all keys > session: > app:");
    assert_eq!(
        tiles(&mut browser)
            .iter()
            .map(|(name, _)| name.as_str())
            .collect::<Vec<_>>(),
        ["ios:", "android:"]
    );
    browser.picture("zoomed", "#prefixes");
    // A prefix that has no longer ones stays closed, and says what it is.
    browser.click(&tile("ios:"));
    assert_eq!(crumbs(&mut browser), "all keys > session: > app:");
    let told = browser.text("document.getElementById('told').textContent");
    assert_eq!(
        told,
        "session:app:ios: — 150,000 keys · 47.7 MiB in file · 66.8 MiB in memory · 7.8 % of all memory"
    );
    browser.press("Backspace");
    assert_eq!(crumbs(&mut browser), "all keys > session:");
    assert_eq!(browser.text(focused), "app:");
    browser.press("Enter");
    assert_eq!(crumbs(&mut browser), "all keys > session: > app:");
    assert_eq!(browser.text(focused), "ios:");
    browser.press("Escape");
    browser.press("Escape");
    assert_eq!(crumbs(&mut browser), "all keys");
    assert_eq!(browser.text(focused), "session:");
    browser.press("Escape");
    assert_eq!(crumbs(&mut browser), "all keys");
    browser.press("Tab");
    browser.press(" ");
    assert_eq!(crumbs(&mut browser), "all keys > queue:");
    browser.click("document.querySelector('#crumbs button')");
    assert_eq!(crumbs(&mut browser), "all keys");
    is_quiet(&mut browser, &page.path);
}

/// The names in the list of the largest keys that is shown, in order.
fn names(browser: &mut Browser) -> Vec<String> {
    browser.texts(
        "[...document.querySelectorAll('.large')].filter((list) => list.offsetParent) \
         .flatMap((list) => [...list.querySelectorAll('tbody th')].map((cell) => cell.textContent))",
    )
}

fn sorted_by(browser: &mut Browser) -> Vec<String> {
    browser.texts(
        "[...document.querySelectorAll('.by-memory th[aria-sort]')] \
         .map((head) => head.textContent + ' ' + head.getAttribute('aria-sort'))",
    )
}

#[test]
fn the_largest_keys_sort_by_every_column_by_mouse_and_by_keys() {
    let report = reports::shop();
    let page = Page::of(&report);
    let mut browser = shown(&page.path);
    assert_eq!(sorted_by(&mut browser), ["Memory descending"]);
    type Order = fn(&LargeKey, &LargeKey) -> std::cmp::Ordering;
    let columns: [(&str, bool, Order); 9] = [
        ("Key", true, |a, b| a.key.cmp(&b.key)),
        ("Bytes in file", false, |a, b| b.bytes.cmp(&a.bytes)),
        ("Memory", false, |a, b| b.memory.cmp(&a.memory)),
        ("Elements", false, |a, b| b.elements.cmp(&a.elements)),
        ("Largest element", false, |a, b| {
            b.largest_element.cmp(&a.largest_element)
        }),
        ("Type", true, |a, b| a.type_name.cmp(&b.type_name)),
        ("Encoding", true, |a, b| a.encoding.cmp(&b.encoding)),
        ("Db", false, |a, b| b.db.cmp(&a.db)),
        ("Expires (UTC)", false, |a, b| {
            b.expires_at_ms
                .unwrap_or(i64::MAX)
                .cmp(&a.expires_at_ms.unwrap_or(i64::MAX))
        }),
    ];
    // What is equal stays as it was; the expected order is computed the same way from the report itself.
    let mut expected: Vec<LargeKey> = report.largest_by_memory.clone();
    let mut by_keys = false;
    for (at, (name, up, order)) in columns.into_iter().enumerate() {
        let head = format!("document.querySelectorAll('.by-memory thead th button')[{at}]");
        // By mouse and by keys in turn; the second press turns the order round, whichever came first.
        let mut press = |browser: &mut Browser| {
            by_keys = !by_keys;
            if by_keys {
                browser.evaluate(&format!("{head}.focus()"));
                browser.press(if up { "Enter" } else { " " });
            } else {
                browser.click(&head);
            }
        };
        let word = |up: bool| if up { "ascending" } else { "descending" };
        press(&mut browser);
        expected.sort_by(order);
        let keys = |keys: &[LargeKey]| keys.iter().map(|key| key.key.clone()).collect::<Vec<_>>();
        assert_eq!(sorted_by(&mut browser), [format!("{name} {}", word(up))]);
        assert_eq!(names(&mut browser), keys(&expected), "{name}");
        press(&mut browser);
        expected.sort_by(|a, b| order(b, a));
        assert_eq!(sorted_by(&mut browser), [format!("{name} {}", word(!up))]);
        assert_eq!(names(&mut browser), keys(&expected), "{name}, turned round");
    }
    // The other lists are the report's, each in its own order.
    for (id, list) in [
        ("bytes", &report.largest_by_bytes),
        ("elements", &report.largest_by_elements),
    ] {
        browser.click(&format!("document.getElementById('large-{id}')"));
        let expected: Vec<String> = list.iter().map(|key| key.key.clone()).collect();
        assert_eq!(names(&mut browser), expected);
    }
    is_quiet(&mut browser, &page.path);
}

#[test]
fn the_page_of_a_servers_snapshot_shows_what_was_put_into_the_server() {
    let server = Server::start("redis-7.0");
    let mut client = server.client();
    for at in 0..2_000 {
        call!(client, "SET", format!("user:{at}:name"), "n");
    }
    for at in 0..100 {
        call!(
            client,
            "SET",
            format!("job:mail:{at}"),
            "waits",
            "EX",
            "7200"
        );
    }
    call!(
        client,
        "HSET",
        "job:</script><b>:hash",
        "field",
        "x".repeat(50_000)
    );
    call!(
        client,
        "RPUSH",
        "a\u{202e}b\u{0}\u{7f}:list",
        "one",
        "two",
        "three"
    );
    call!(
        client,
        "SET",
        [b"bytes:\xff\xfe".as_slice(), &[b'k'; 10_000]].concat(),
        "v"
    );
    let snapshot = server.save();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("report.html");
    let run = run(
        &[
            "report",
            text(&snapshot),
            "--format",
            "html",
            "--by",
            "keys",
            "-o",
            text(&path),
        ],
        None,
    );
    assert_eq!(run.code, 0, "{}", run.stderr);
    let mut browser = shown(&path);
    areas_are(
        &mut browser,
        &[("user:", 2_000.0), ("job:", 101.0), ("(smaller)", 2.0)],
    );
    browser.click(&tile("(smaller)"));
    let mut found: Vec<String> = tiles(&mut browser)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    found.sort();
    assert_eq!(found, ["a\\u{202e}b\\x00\\x7f:", "bytes:"]);
    browser.press("Escape");
    browser.click(&tile("job:"));
    areas_are(&mut browser, &[("mail:", 100.0), ("</script><b>:", 1.0)]);
    browser.click("document.getElementById('large-bytes')");
    let list = names(&mut browser);
    assert!(
        list.contains(&"job:</script><b>:hash".to_owned()),
        "{list:?}"
    );
    assert!(
        list.contains(&"a\\u{202e}b\\x00\\x7f:list".to_owned()),
        "{list:?}"
    );
    // Cut where it has grown to 240 bytes: the eight of \xff\xfe and six before leave 226 k.
    let long = format!("bytes:\\xff\\xfe{}…", "k".repeat(226));
    assert!(list.contains(&long), "{list:?}");
    let counted = browser.texts(
        "['types', 'expiry'].flatMap((id) => [...document.querySelectorAll(`section[aria-labelledby=${id}] tbody tr`)] \
         .map((row) => row.cells[0].textContent + ' ' + row.querySelector('.col-k').textContent)).filter((text) => !text.endsWith(' 0'))",
    );
    let mut counted: Vec<&str> = counted.iter().map(String::as_str).collect();
    counted.sort_unstable();
    assert_eq!(
        counted,
        [
            "< 1 d 100",
            "hash 1",
            "list 1",
            "no expiry 2,003",
            "string 2,101"
        ]
    );
    is_quiet(&mut browser, &path);
}

/// Not a test of anything: pictures for a person, where PAGE_PICTURES names a directory; of a page of theirs, where
/// PAGE_FILE names one.
#[test]
fn pictures() {
    if std::env::var_os("PAGE_PICTURES").is_none() {
        return;
    }
    let mut browser = Browser::start();
    let mut take = |name: &str, path: &Path, from: &str| {
        browser.resize(DESKTOP.0, DESKTOP.1, false);
        browser.set_dark(false);
        browser.open(path);
        browser.picture(&format!("{name}-light"), from);
        browser.set_dark(true);
        browser.picture(&format!("{name}-dark"), from);
        browser.set_dark(false);
        browser.call("Emulation.setEmulatedMedia", json!({"media": "print"}));
        browser.picture(&format!("{name}-print"), from);
        browser.call("Emulation.setEmulatedMedia", json!({"media": ""}));
        browser.resize(PHONE.0, PHONE.1, true);
        browser.open(path);
        browser.picture(&format!("{name}-phone"), from);
    };
    if let Ok(path) = std::env::var("PAGE_FILE") {
        take("file", Path::new(&path), "html");
        return;
    }
    take("shop", &Page::of(&reports::shop()).path, "html");
    take("empty", &Page::of(&reports::empty()).path, "html");
    take("one", &Page::of(&reports::one_key()).path, "html");
    take("huge", &Page::of(&reports::huge()).path, "#prefixes");
}
