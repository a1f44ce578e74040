//! Whatever bytes come, the RPC programs answer something small or nothing, and never panic.

use std::sync::{Arc, LazyLock};

use hearth::image::index::Number;
use hearth::netboot::nfs::handle;
use hearth::netboot::nfs::portmap::Portmap;
use hearth::netboot::rpc::{Peer, Program, Transport, answer};
use proptest::prelude::*;

use crate::fixture::make_image;
use crate::nfs_server::{ID, programs};
use crate::rpc::{arguments, call};

struct Target {
    programs: Vec<Arc<dyn Program>>,
    root: Vec<u8>,
    _directory: tempfile::TempDir,
}

static TARGET: LazyLock<Target> = LazyLock::new(target);

fn target() -> Target {
    let directory = tempfile::tempdir().unwrap();
    let (exports, _, mut programs) = programs(&make_image(directory.path()), &[]);
    programs.push(Arc::new(Portmap::new(2049, 2049, 111)));
    let export = exports.by_id(ID).unwrap();
    Target {
        root: handle(&export, Number::ROOT).to_vec(),
        programs,
        _directory: directory,
    }
}

fn ask(target: &Target, transport: Transport, message: &[u8]) -> usize {
    let peer = Peer {
        address: "127.0.0.1:1000".parse().unwrap(),
        transport,
        allowed: true,
    };
    let mut reply = Vec::new();
    let tail = answer(&target.programs, peer, message, &mut reply);
    reply.len() + tail.map_or(0, |tail| tail.length)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_message_is_answered_within_bounds(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 50)) {
        for message in messages {
            prop_assert!(ask(&TARGET, Transport::Udp, &message) < 1000);
        }
    }

    #[test]
    fn any_call_with_any_change_is_answered_within_bounds(
        procedure in 0u32..25,
        program in prop::sample::select(vec![(100_003u32, 3u32), (100_005, 3), (100_000, 2)]),
        words in prop::collection::vec(any::<u32>(), 0..8),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let whole = call(1, program, procedure, 0, 0, &arguments(&[&TARGET.root, b"usr"], &words));
        prop_assert!(ask(&TARGET, Transport::Tcp, &whole) < 1_100_000);
        prop_assert!(ask(&TARGET, Transport::Udp, &whole) < 65_000);
        prop_assert!(ask(&TARGET, Transport::Udp, &whole[..cut.index(whole.len())]) < 65_000);
        let mut changed = whole.clone();
        for (at, value) in changes {
            let at = at.index(changed.len());
            changed[at] = value;
        }
        prop_assert!(ask(&TARGET, Transport::Udp, &changed) < 65_000);
    }
}
