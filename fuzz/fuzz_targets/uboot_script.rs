//! Boot scripts, and templates of them, of arbitrary text: no panic, no value that adds a line or a command, and what is
//! mended stays mended.
#![no_main]

use std::collections::BTreeMap;
use std::sync::LazyLock;

use hearth::data::Source;
use hearth::recipe::{Diagnostic, LoadedLab, boot_values};
use hearth::uboot::{Templates, Values, check};
use libfuzzer_sys::fuzz_target;
use serde_json::json;

const LAB: &str = "[lab]\nname = \"desk\"\naddress = \"192.168.7.1\"\n\
    [[board]]\nname = \"neo1\"\ntype = \"nanopi-neo\"\nmac = \"02:00:5e:10:00:02\"\n";

static SHIPPED: LazyLock<(Templates, Values)> = LazyLock::new(|| {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), LAB).unwrap();
    let lab = LoadedLab::load(file.path()).unwrap();
    let values = boot_values(&lab.boards[0], &lab.settings, Some("image"));
    (Templates::load().unwrap(), values)
});

fuzz_target!(|data: &[u8]| {
    let (mended, _) = check::mended(data);
    assert_eq!(check::mended(&mended).0, mended);
    if check::runnable(data).is_ok() {
        assert_eq!(mended, data);
    }
    let text = String::from_utf8_lossy(data);
    for value in [&*text, text.lines().next().unwrap_or_default()] {
        shipped(value);
    }
    template(&text);
});

/// A value in the places that a lab file fills.
fn shipped(value: &str) {
    let (templates, plain) = &*SHIPPED;
    let mut with = plain.clone();
    with.console = value.to_string();
    with.kernel_arguments = vec!["x".into(), value.to_string()];
    with.values = BTreeMap::from([("root".into(), value.to_string())]);
    let mut without = plain.clone();
    without.kernel_arguments = vec!["x".into(), "y".into()];
    without.values = BTreeMap::from([("root".into(), "y".into())]);
    for name in templates.scripts() {
        let Ok(text) = templates.script(name, &with) else {
            continue;
        };
        let plain = templates.script(name, &without).unwrap();
        assert_eq!(text.lines().count(), plain.lines().count(), "{text}");
        assert_eq!(commands(&text), commands(&plain), "{text}");
        if let Some(text) = templates.extlinux(name, &with).unwrap() {
            let plain = templates.extlinux(name, &without).unwrap().unwrap();
            assert_eq!(text.lines().count(), plain.lines().count(), "{text}");
        }
    }
}

/// How many separators of commands a script has, by hush's rules: none in quotes or comments, a single quote begins a quotation
/// between double quotes too, a backslash takes what follows.
fn commands(script: &str) -> usize {
    let (mut single, mut double, mut in_word, mut count) = (false, false, false, 0);
    let mut rest = script.chars();
    while let Some(c) = rest.next() {
        match c {
            '\'' => single = !single,
            _ if single => {}
            '\\' => drop(rest.next()),
            '"' => double = !double,
            _ if double => {}
            '#' if !in_word => {
                rest.by_ref().take_while(|c| *c != '\n').for_each(drop);
                count += 1;
            }
            ';' | '&' | '|' | '\n' => count += 1,
            _ => {}
        }
        in_word = single || double || !matches!(c, ' ' | '\t' | ';' | '&' | '|' | '\n' | '#');
    }
    count
}

/// A template of a user's, and its mistakes.
fn template(text: &str) {
    let source = Source {
        path: "fuzz.cmd.hbs".into(),
        text: text.to_string(),
    };
    let sources = BTreeMap::from([("fuzz.cmd".to_string(), source)]);
    let templates = match Templates::new(sources) {
        Ok(templates) => templates,
        Err(error) => return shown(&error),
    };
    let [plain, separated] = ["b c", "b;c"]
        .map(|value| templates.script("fuzz", &json!({"a": value, "d": [value, "f"]})));
    match (plain, separated) {
        (Ok(plain), Ok(separated)) => {
            check::runnable(plain.as_bytes()).unwrap();
            assert_eq!(commands(&plain), commands(&separated), "{separated}");
        }
        (Err(error), _) | (_, Err(error)) => shown(&error),
    }
}

fn shown(error: &anyhow::Error) {
    if let Some(wrong) = error.downcast_ref::<Diagnostic>() {
        assert!(wrong.text.get(wrong.span.clone()).is_some(), "{wrong}");
    }
    let _ = format!("{error:#}");
}
