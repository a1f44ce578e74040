//! Recipes, locks, board types and lab files of arbitrary text: no panic, and every mistake has a place in the text that can be
//! shown.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use hearth::data::Source;
use hearth::recipe::{BoardType, Diagnostic, LoadedLab, Lock, Recipe, board_types, boot_values};
use hearth::uboot::{BootScript, Templates};
use libfuzzer_sys::fuzz_target;

type Types = std::collections::BTreeMap<String, BoardType>;

static TYPES: LazyLock<Types> = LazyLock::new(|| board_types().unwrap());
static TEMPLATES: LazyLock<Templates> = LazyLock::new(|| Templates::load().unwrap());

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let path = Path::new("fuzz.toml");
    match Recipe::parse(path, &text) {
        Ok(recipe) => assert_eq!(recipe.selection_digest().len(), 64),
        Err(error) => shown(&error),
    }
    match Lock::parse(path, &text) {
        Ok(lock) => {
            let again = Lock::parse(path, &lock.to_toml()).unwrap();
            assert_eq!(again, lock);
            assert!(lock.changes(&again).is_empty());
            let _ = lock.epoch();
        }
        Err(error) => shown(&error),
    }
    if let Err(error) = BoardType::parse(path, &text) {
        shown(&error.into());
    }
    let source = Source {
        path: path.into(),
        text: text.into_owned(),
    };
    match LoadedLab::from_source(&source, TYPES.clone()) {
        Ok(lab) => booted(&lab),
        Err(error) => shown(&error),
    }
});

/// What a command draws of it.
fn shown(error: &anyhow::Error) {
    let Some(wrong) = error.downcast_ref::<Diagnostic>() else {
        let _ = format!("{error:#}");
        return;
    };
    assert!(wrong.text.get(wrong.span.clone()).is_some(), "{wrong}");
    let _ = wrong.position();
    let snippet = Snippet::source(&wrong.text)
        .path("fuzz.toml")
        .annotation(AnnotationKind::Primary.span(wrong.span.clone()));
    let group = Level::ERROR.primary_title(&wrong.message).element(snippet);
    Renderer::plain().render(&[group]);
}

/// The boot scripts of a lab that passed: rendered, or refused.
fn booted(lab: &LoadedLab) {
    for board in lab.boards.iter().take(8) {
        let values = boot_values(board, &lab.settings, Some("image"));
        for name in TEMPLATES.scripts() {
            let arch = board.board_type.arch;
            if let Err(error) = BootScript::render(&TEMPLATES, name, &values, arch, 0) {
                shown(&error);
            }
        }
    }
}
