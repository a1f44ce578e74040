//! The board API on arbitrary requests of a host that is not the board it claims to be: no panic, only answers that the API
//! has, never a failure of the store, and nothing that is another board's.
#![no_main]

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use hearth::lab::{Claim, JobState, Known, LabStore, router};
use hearth::recipe::Mac;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use tokio::runtime::Builder;
use tower::ServiceExt;

/// Of the board `neo1`, which has booted, checked in and runs a job.
const SECRET: &str = "what-neo1-drew-at-random";
const PAYLOAD: &[u8] = b"the payload of neo1's job";
const OUTPUT: &[u8] = b"what neo1 printed";
/// Of the board `neo2`, which is the caller where a request says so.
const OWN_SECRET: &str = "s2";
const OWN_PAYLOAD: &[u8] = b"the payload of neo2's job";
/// A check-in may have this many bytes.
const LARGEST_CLAIM: usize = 4 << 10;

/// A store with both boards' jobs, closed; `neo1`'s token.
static TEMPLATE: LazyLock<(tempfile::TempDir, PathBuf, String)> = LazyLock::new(|| {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("template.db");
    let store = LabStore::open(&path).unwrap();
    store.confirm("neo1", &hash(SECRET)).unwrap();
    store.confirm("neo2", &hash(OWN_SECRET)).unwrap();
    let boot = store.check_in(&claim("neo1", 1, SECRET), None).unwrap();
    let job = store.submit("neo1", PAYLOAD).unwrap();
    assert_eq!(job, 1);
    store.take(&boot).unwrap().unwrap();
    store.append(&boot, 1, 0, OUTPUT).unwrap().unwrap();
    store.submit("neo2", OWN_PAYLOAD).unwrap();
    (directory, path, boot.token)
});

fn hash(secret: &str) -> String {
    Sha256::digest(secret)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn claim(board: &str, last: u8, secret: &str) -> Claim {
    Claim {
        board: board.into(),
        mac: format!("02:00:00:00:00:{last:02x}"),
        boot: "boot".into(),
        secret: secret.into(),
        ..Claim::default()
    }
}

fn roster() -> Vec<Known> {
    let known = |name: &str, last| Known {
        name: name.into(),
        mac: Mac([2, 0, 0, 0, 0, last]),
        images: vec![],
    };
    vec![known("neo1", 1), known("neo2", 2)]
}

/// What is asked for, with which token, a part of the address, and the body.
type Call = (u8, u8, Vec<u8>, Vec<u8>);

/// What stands in an address as it is, and the rest in per cent.
fn escaped(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&byte| match byte {
            b'!'..=b'~' if byte != b'#' => char::from(byte).to_string(),
            _ => format!("%{byte:02x}"),
        })
        .collect()
}

fn request((kind, token, part, body): &Call, own: Option<&str>) -> Option<Request<Body>> {
    let (part, body) = (escaped(part), body.clone());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (method, address, body) = match kind % 10 {
        0 => ("POST", "checkin".into(), body),
        1 => (
            "POST",
            "checkin".into(),
            serde_json::to_vec(&claim("neo1", 1, &text(&body))).unwrap(),
        ),
        2 => (
            "POST",
            "checkin".into(),
            serde_json::to_vec(&claim("neo2", 2, OWN_SECRET)).unwrap(),
        ),
        3 => {
            let mut padded = serde_json::to_vec(&claim("neo2", 2, &text(&body))).unwrap();
            padded.resize(LARGEST_CLAIM + 1 + padded.len(), b' ');
            ("POST", "checkin".into(), padded)
        }
        4 => ("GET", format!("job?{part}"), body),
        5 => ("POST", format!("jobs/1/output?{part}"), body),
        6 => ("POST", format!("jobs/2/output?start={part}"), body),
        7 => ("POST", format!("jobs/{part}/done"), body),
        8 => ("POST", "heartbeat".into(), body),
        _ => ("GET", part, body),
    };
    let mut request = Request::builder()
        .method(method)
        .uri(format!("/api/v1/{address}"));
    let shown = match token % 4 {
        0 => own.map(str::to_string),
        1 => Some("0".repeat(32)),
        2 => Some(address),
        _ => None,
    };
    if let Some(shown) = shown {
        request = request.header("authorization", format!("Bearer {shown}"));
    }
    request.body(Body::from(body)).ok()
}

/// Asks, and gives the token that the lab answers with.
async fn ask(router: &Router, call: &Call, own: Option<&str>, victim: &str) -> Option<String> {
    let request = request(call, own)?;
    let too_large = call.0 % 10 == 3;
    let answer = router.clone().oneshot(request).await.unwrap();
    let status = answer.status();
    assert!(
        matches!(
            status.as_u16(),
            200 | 204 | 400 | 401 | 404 | 405 | 409 | 410 | 413
        ),
        "{status}"
    );
    assert!(!too_large || status == StatusCode::PAYLOAD_TOO_LARGE);
    let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    for secret in [victim.as_bytes(), SECRET.as_bytes(), PAYLOAD, OUTPUT] {
        assert!(!body.windows(secret.len()).any(|part| part == secret));
    }
    let answer: serde_json::Value = serde_json::from_slice(&body).ok()?;
    answer["token"].as_str().map(str::to_string)
}

fuzz_target!(|calls: Vec<Call>| {
    let (_, template, victim) = &*TEMPLATE;
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = directory.path().join("lab.db");
    std::fs::copy(template, &path).unwrap();
    let store = Arc::new(LabStore::open(&path).unwrap());
    let routes = router(Arc::clone(&store), Arc::new(roster), 600.0);
    // Time passes at once while all wait for it.
    let mut runtime = Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    let mut own = None;
    for call in calls.iter().take(8) {
        let token = runtime.block_on(ask(&routes, call, own.as_deref(), victim));
        own = token.or(own);
    }
    assert_eq!(store.job(1).unwrap().unwrap().state, JobState::Running);
    assert_eq!(store.output(1, 0).unwrap(), OUTPUT);
    assert!(store.boot(victim).unwrap().is_some());
});
