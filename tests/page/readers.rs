//! Everyone can read it: on a phone, in the dark, by keys, without scripts, and where there is little or nothing.

use serde_json::Value;

use super::{DESKTOP, PHONE, Page, is_quiet, names, shown};
use crate::support::browser::Browser;
use crate::support::reports;

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
