//! What a board says of itself, from its bytes to the lab file: no panic, nobody is taken for a board that he is not, and an
//! adopted board is one entry with what was asked for.
#![no_main]

use std::fs;
use std::sync::LazyLock;

use hearth::lab::{Claim, Known, LabStore, adopt, check, choose, unknown_boards};
use hearth::recipe::{LoadedLab, Mac};
use hearth::sanitise::is_unsafe;
use libfuzzer_sys::fuzz_target;

const LAB: &str = "[lab] # my desk\nname = 'desk'\naddress = '192.168.7.1'\n\
    [[board]]\nname = 'neo1'\ntype = 'nanopi-neo'\nmac = '02:00:00:00:00:01'\n";

/// The lab file, and its directory.
static LOADED: LazyLock<(tempfile::TempDir, LoadedLab)> = LazyLock::new(|| {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("lab.toml");
    fs::write(&path, LAB).unwrap();
    let lab = LoadedLab::load(&path).unwrap();
    (directory, lab)
});

fn judged(claim: &Claim) -> Option<String> {
    let known = Known {
        name: "neo1".into(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        images: vec!["old".into(), "new".into()],
    };
    let problem = check(claim, std::slice::from_ref(&known));
    if problem.is_none() {
        assert_eq!(claim.board, known.name);
        assert_eq!(claim.mac.parse::<Mac>().ok(), Some(known.mac));
        assert!(known.images.contains(&claim.image));
    }
    problem
}

fn adopted(claim: &Claim, name: &str) {
    let (directory, lab) = &*LOADED;
    let store = directory.path().join("lab.db");
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(directory.path().join(format!("lab.db{suffix}")));
    }
    let store = LabStore::open(&store).unwrap();
    let problem = judged(claim);
    let boot = store.check_in(claim, problem.as_deref()).unwrap();
    let public = Claim {
        secret: String::new(),
        ..claim.clone()
    };
    assert_eq!(boot.claim, public);
    assert!(!boot.confirmed);
    let Ok(boot) = choose(unknown_boards(&store, lab).unwrap(), &claim.board) else {
        return;
    };
    let path = lab.path.as_ref().unwrap();
    if adopt(lab, &boot, name, "nanopi-neo").is_ok() {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.starts_with(LAB));
        assert!(!text.chars().any(|c| c != '\n' && is_unsafe(c)));
        let now = LoadedLab::load(path).unwrap();
        let [_, board] = now.boards.as_slice() else {
            panic!("{text}");
        };
        assert_eq!(board.name, name);
        assert_eq!(Some(board.mac), claim.mac.parse().ok());
        assert_eq!(board.board_type, lab.boards[0].board_type);
    }
    fs::write(path, LAB).unwrap();
}

fuzz_target!(|input: (&[u8], u8, [String; 5])| {
    let (bytes, last, [board, mac, model, serial, name]) = input;
    if let Ok(claim) = serde_json::from_slice::<Claim>(bytes) {
        judged(&claim);
        let again = serde_json::to_vec(&claim).unwrap();
        assert_eq!(serde_json::from_slice::<Claim>(&again).unwrap(), claim);
    }
    let mut claim = Claim {
        board,
        mac,
        model,
        serial,
        boot: "b".into(),
        ..Claim::default()
    };
    judged(&claim);
    claim.mac = format!("02:00:00:00:00:{last:02X}");
    adopted(&claim, &name);
});
