//! The page of a report in a real browser: that it shows what the report says, to whoever looks at it in whichever way,
//! and that it does nothing else.
//!
//! `PAGE_PICTURES=DIR cargo test --test main page::` also writes pictures of it, for a person to look at.

use std::path::{Path, PathBuf};

use redis_migration::report::{By, LargeKey, Report, html};
use serde_json::Value;

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
        ("Db", false, |a, b| b.db.cmp(&a.db)),
        ("Type", true, |a, b| a.type_name.cmp(&b.type_name)),
        ("Encoding", true, |a, b| a.encoding.cmp(&b.encoding)),
        ("Bytes in file", false, |a, b| b.bytes.cmp(&a.bytes)),
        ("Memory", false, |a, b| b.memory.cmp(&a.memory)),
        ("Elements", false, |a, b| b.elements.cmp(&a.elements)),
        ("Largest element", false, |a, b| {
            b.largest_element.cmp(&a.largest_element)
        }),
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
fn a_phone_shows_it_without_scrolling_sideways() {
    let mut browser = Browser::start();
    browser.resize(PHONE.0, PHONE.1, true);
    for report in [
        reports::shop(),
        reports::huge(),
        reports::one_key(),
        reports::empty(),
    ] {
        let page = Page::of(&report);
        browser.open(&page.path);
        let widths = browser.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth, innerWidth]",
        );
        assert_eq!(widths, serde_json::json!([360, 360, 360]));
        // Whatever is wider than the screen scrolls in a box of its own.
        let wide = browser.texts(
            "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1 \
             && !e.closest('.box, .strip nav, .sr, .skip')).map((e) => e.outerHTML.slice(0, 80))",
        );
        assert_eq!(wide, [""; 0]);
        let small = browser.texts(
            "(() => { const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); const out = []; \
             while (walk.nextNode()) { const e = walk.currentNode.parentElement; \
             if (walk.currentNode.data.trim() && !e.closest('script, style') && parseFloat(getComputedStyle(e).fontSize) < 12) \
             out.push(e.outerHTML.slice(0, 80)); } return out; })()",
        );
        assert_eq!(small, [""; 0]);
        is_quiet(&mut browser, &page.path);
    }
}

/// For each text that is seen: its contrast with what lies behind it, as WCAG computes it, if that is below 4.5.
const FAINT: &str = r#"(() => {
  const parse = (color) => {
    const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number);
    return [r, g, b, a];
  };
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color[3] === 1) return color;
      if (color[3] > 0) throw new Error("half a background: " + e.outerHTML.slice(0, 80));
    }
    throw new Error("no background");
  };
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const out = []; let seen = 0;
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest("script, style")) continue;
    seen += 1;
    const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(behind(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) out.push(contrast.toFixed(2) + " " + e.outerHTML.slice(0, 80));
  }
  if (seen < 200) out.push("only " + seen + " texts are seen");
  return out;
})()"#;

#[test]
fn all_texts_are_readable_in_light_and_in_the_dark() {
    let page = Page::of(&reports::shop());
    let mut browser = shown(&page.path);
    let mut grounds = Vec::new();
    for dark in [false, true] {
        browser.set_dark(dark);
        assert_eq!(browser.texts(FAINT), [""; 0], "dark: {dark}");
        // Every shade that a tile may have, also those that this report has no prefix for.
        let shades = browser.texts(&format!(
            "(() => {{ const tile = document.querySelector('.tile'); const was = tile.dataset.shade; \
             const out = ['0', '1', '2', '3', '4', 'rest'].flatMap((shade) => {{ tile.dataset.shade = shade; \
             const inner = tile.querySelectorAll('i'); inner.forEach((i) => {{ i.dataset.shade = shade; }}); \
             return ({FAINT}).map((faint) => shade + ': ' + faint); }}); tile.dataset.shade = was; return out; }})()"
        ));
        assert_eq!(shades, [""; 0], "dark: {dark}");
        grounds.push(browser.text("getComputedStyle(document.body).backgroundColor"));
    }
    assert_eq!(grounds, ["rgb(255, 255, 255)", "rgb(21, 24, 28)"]);
}

#[test]
fn everything_that_can_be_used_is_reached_by_tab_and_seen_to_be() {
    let page = Page::of(&reports::shop());
    let mut browser = shown(&page.path);
    browser.evaluate(
        "window.wanted = [...document.querySelectorAll('a[href], button, summary, input, [tabindex=\"0\"]')] \
         .filter((e) => e.checkVisibility() && !(e.type === 'radio' && !e.checked)); window.reached = []; 0",
    );
    // Without focus first: what differs then is what shows it.
    browser.evaluate(
        "window.look = (e) => { const s = e.type === 'radio' ? e.nextElementSibling : e; const c = getComputedStyle(s); \
         return [c.outlineStyle, c.outlineWidth].join(' '); }; window.before = new Map(wanted.map((e) => [e, look(e)])); 0",
    );
    let wanted = browser
        .evaluate("wanted.length")
        .as_u64()
        .expect("a number");
    assert!(wanted > 30, "{wanted} elements can be used");
    for _ in 0..wanted {
        browser.press("Tab");
        browser.evaluate(
            "(() => { const e = document.activeElement; reached.push(e); \
             if (look(e) === before.get(e) || look(e).startsWith('none')) \
             throw new Error('not seen to have the focus: ' + e.outerHTML.slice(0, 100)); })()",
        );
    }
    let missed = browser
        .texts("wanted.filter((e) => !reached.includes(e)).map((e) => e.outerHTML.slice(0, 100))");
    assert_eq!(missed, [""; 0]);
    // In the order in which they stand in the page.
    let in_order = browser.evaluate("reached.every((e, at) => e === wanted[at])");
    assert_eq!(in_order, Value::Bool(true));
    assert_eq!(
        browser.text("reached[0].textContent"),
        "Skip to the figures"
    );
}

/// Names that would be something else than a name where one step forgot what they are.
const HOSTILE: [&str; 9] = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=document.title='owned'>:",
    "\"><svg onload=document.title='owned'>:",
    "' onmouseover='document.title=1' x='",
    "</table></main><h1>gone</h1>:",
    "&lt;b&gt;&amp;quot;",
    "{{ title }}{% if %}${title}`:",
    "<!--<script>:",
];

#[test]
fn names_are_text_whatever_they_say() {
    let mut report = reports::shop();
    for (at, name) in HOSTILE.into_iter().enumerate() {
        let inner = reports::prefix(
            &format!("{name}{name}"),
            reports::sums(5, 5, 90_000_000),
            vec![],
        );
        report.prefixes.root.children.push(reports::prefix(
            name,
            reports::sums(10, 10, 90_000_000),
            vec![inner],
        ));
        report.largest_by_memory[at % 6].key = name.to_owned();
        report.types[at % 5].type_name = name.to_owned();
        report.encodings[at % 5].encoding = name.to_owned();
        report.inputs[at % 2].name = name.to_owned();
        report.inputs[1].damage = Some(name.to_owned());
        report.inputs[0].server = Some(name.to_owned());
        report.prefixes.separator = name.to_owned();
        report.memory_model.note = name.to_owned();
    }
    let clean = Page::of(&reports::shop());
    let page = Page::of(&report);
    let mut browser = shown(&clean.path);
    let kinds = "[...new Set([...document.querySelectorAll('*')].map((e) => e.tagName + ' ' + e.getAttributeNames().filter((n) => n !== 'title'))) ].sort()";
    let expected = browser.texts(kinds);
    browser.open(&page.path);
    // Every name is opened in the map, where the script puts it.
    for name in HOSTILE {
        let name = serde_json::to_string(name).expect("JSON");
        browser.evaluate(&format!(
            "[...document.querySelectorAll('#tiles > .tile')].find((tile) => tile.node.name === {name}).click()"
        ));
        let shown = browser.evaluate(&format!(
            "document.querySelector('#crumbs [aria-current]').textContent === {name}"
        ));
        assert_eq!(shown, Value::Bool(true), "{name}");
        browser.evaluate("document.querySelector('#crumbs button').click()");
    }
    let found = browser.texts(kinds);
    let new: Vec<&String> = found
        .iter()
        .filter(|kind| !expected.contains(kind))
        .collect();
    assert!(
        new.is_empty(),
        "elements that only names could have made: {new:?}"
    );
    assert_eq!(browser.text("document.title"), "What is in 2 files");
    let list = names(&mut browser);
    assert!(list.contains(&HOSTILE[6].to_owned()), "{list:?}");
    is_quiet(&mut browser, &page.path);
}

#[test]
fn the_page_may_load_nothing_and_run_nothing_but_itself() {
    let page = Page::of(&reports::shop());
    let mut browser = shown(&page.path);
    // What a name would do had it become an element after all.
    let blocked = browser.texts(
        "new Promise((done) => { const blocked = []; \
         document.addEventListener('securitypolicyviolation', (e) => { blocked.push(e.effectiveDirective); \
           if (blocked.length === 6) done(blocked.sort()); }); \
         const add = (html) => { const e = document.createElement('div'); e.innerHTML = html; document.body.append(e); return e; }; \
         add('<img src=\"http://127.0.0.1:9/x.png\">'); \
         add('<iframe src=\"http://127.0.0.1:9/\"></iframe>'); \
         add('<a onclick=\"document.title = 1\">x</a>').firstChild.click(); \
         const script = document.createElement('script'); script.textContent = 'document.title = 1'; document.body.append(script); \
         fetch('http://127.0.0.1:9/').catch(() => {}); \
         const form = add('<form action=\"http://127.0.0.1:9/\"></form>').firstChild; form.submit(); \
         setTimeout(() => done(blocked.sort()), 3000); })",
    );
    assert_eq!(
        blocked,
        [
            "connect-src",
            "form-action",
            "frame-src",
            "img-src",
            "script-src-attr",
            "script-src-elem"
        ]
    );
    assert_eq!(browser.text("document.title"), "What is in 2 files");
    let asked: Vec<String> = browser
        .requests()
        .into_iter()
        .filter(|url| url.starts_with("http"))
        .collect();
    // Those that the policy keeps back are announced, and fail before they leave.
    let sent = browser
        .events
        .iter()
        .filter(|event| event["method"] == "Network.responseReceived")
        .count();
    assert_eq!(sent, 1, "answers came for {asked:?}");
}

#[test]
fn without_scripts_all_figures_are_there() {
    let report = reports::shop();
    let page = Page::of(&report);
    let mut browser = Browser::start();
    browser.resize(DESKTOP.0, DESKTOP.1, false);
    browser.set_scripts(false);
    browser.open(&page.path);
    let seen = browser.evaluate(
        "({ map: document.getElementById('map').checkVisibility(), buttons: document.querySelectorAll('th button').length, \
            prefixes: [...document.querySelectorAll('#prefix-rows tbody tr')].filter((row) => row.checkVisibility()).length, \
            largest: [...document.querySelectorAll('.large tbody tr')].filter((row) => row.checkVisibility()).length, \
            sizes: [...document.querySelectorAll('section[aria-labelledby=sizes] tbody tr')].filter((row) => row.checkVisibility()).length, \
            slots: [...document.querySelectorAll('section[aria-labelledby=slots] tbody tr')].filter((row) => row.checkVisibility()).length })",
    );
    // All keys, five prefixes and "(other)", three and two below session:, two below queue:, thirty below product:.
    assert_eq!(
        seen,
        serde_json::json!({"map": false, "buttons": 0, "prefixes": 44, "largest": 6, "sizes": 12, "slots": 84})
    );
    // The choice of the measure needs no script.
    browser.picture("without-scripts", "html");
    let bar = "document.querySelector('section[aria-labelledby=types] .share b').getBoundingClientRect().width";
    let by_memory = browser.evaluate(bar).as_f64().expect("a width");
    browser.click("document.getElementById('by-keys')");
    let by_keys = browser.evaluate(bar).as_f64().expect("a width");
    // Strings are 260 of 900 MB and 650,000 of 1,200,000 keys.
    assert!(
        (by_keys / by_memory - (650.0 / 1200.0) / (260.0 / 900.0)).abs() < 0.02,
        "{by_keys} and {by_memory}"
    );
    is_quiet(&mut browser, &page.path);
}

#[test]
fn a_page_stays_small_whatever_the_report_holds() {
    let page = Page::of(&reports::huge());
    let bytes = std::fs::metadata(&page.path).expect("a file").len();
    assert!(bytes < 2_000_000, "{bytes} bytes");
    let mut browser = shown(&page.path);
    // What is left out is counted: prefixes in "(other)", the rest by how much is missing.
    let sums = browser.evaluate(
        "(() => { const rows = [...document.querySelectorAll('#prefix-rows tbody tr')]; \
         const keys = (row) => Number(row.cells[1].dataset.v); \
         return [rows.length, keys(rows[0]), rows.filter((row) => row.dataset.d === '1').reduce((sum, row) => sum + keys(row), 0)]; })()",
    );
    assert!(sums[0].as_u64().expect("a number") <= 2_000, "{sums}");
    assert_eq!(sums[1], sums[2]);
    assert_eq!(sums[1], serde_json::json!(reports::huge().totals.sums.keys));
    let shown = browser.text("document.body.innerText");
    for left_out in [
        "3,000 inputs are damaged",
        "and 2,800 more",
        "and 15,800 more",
        "…",
    ] {
        assert!(shown.contains(left_out), "{left_out}");
    }
}

#[test]
fn few_keys_and_none_are_told_in_words() {
    let page = Page::of(&reports::empty());
    let mut browser = shown(&page.path);
    let shown = browser.text("document.querySelector('main').innerText");
    assert!(
        shown.contains("There is no key in what was read."),
        "{shown}"
    );
    assert_eq!(
        browser.evaluate("document.querySelectorAll('section').length"),
        Value::from(1)
    );
    let page = Page::of(&reports::one_key());
    browser.open(&page.path);
    is_quiet(&mut browser, &page.path);
    assert_eq!(names(&mut browser), ["greeting"]);
    assert_eq!(
        browser.evaluate("document.getElementById('map').checkVisibility()"),
        Value::Bool(false)
    );
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
