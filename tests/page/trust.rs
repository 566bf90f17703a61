//! Whatever a report holds, the page is that report and nothing else, and no larger than a page.

use serde_json::Value;

use super::{Page, is_quiet, names, shown};
use crate::support::reports;

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
