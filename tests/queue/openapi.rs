//! The description of the API: every route is in it, and it describes no other.

use std::collections::BTreeSet;

#[test]
fn every_route_for_people_is_described_and_no_other() {
    let api: serde_json::Value = serde_json::from_str(hearth::lab::OPENAPI).unwrap();
    let described: BTreeSet<&str> = api["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let boards = [
        "/api/v1/openapi.json",
        "/api/v1/checkin",
        "/api/v1/job",
        "/api/v1/jobs/{id}/output",
        "/api/v1/jobs/{id}/done",
        "/api/v1/heartbeat",
    ];
    let routes: BTreeSet<&str> = hearth::lab::ROUTES.into_iter().chain(boards).collect();
    let shown = |paths: &BTreeSet<&str>| {
        paths
            .iter()
            .map(|it| it.replace("/api/v1", ""))
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(shown(&described), shown(&routes));
    for (path, methods) in api["paths"].as_object().unwrap() {
        for (method, operation) in methods
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| *name != "parameters")
        {
            assert!(
                operation["summary"].is_string(),
                "{method} {path} says nothing of itself"
            );
            assert!(
                operation["responses"].is_object(),
                "{method} {path} has no answers"
            );
        }
    }
}
