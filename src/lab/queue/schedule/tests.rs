//! The scheduler alone: rounds of hand-outs, played without boards, store or clock.

use super::*;
use crate::lab::queue::Priority;

fn board(name: &str, board_type: &str) -> BoardFact {
    BoardFact {
        name: name.into(),
        board_type: board_type.into(),
        tags: Vec::new(),
        emulated: false,
        standing: Standing::Free,
    }
}

fn job(id: i64, submitter: &str) -> WaitingJob {
    WaitingJob {
        id,
        kind: Kind::Test,
        board: None,
        board_type: Some("neo".into()),
        tags: Vec::new(),
        priority: Priority::default(),
        submitter: submitter.into(),
        overtaken: 0,
        avoid: Vec::new(),
    }
}

fn with_priority(id: i64, submitter: &str, priority: &str) -> WaitingJob {
    WaitingJob {
        priority: priority.parse().unwrap(),
        ..job(id, submitter)
    }
}

fn input(waiting: Vec<WaitingJob>, boards: Vec<BoardFact>) -> Input {
    Input {
        waiting,
        boards,
        emulated_limit: 2,
        ..Input::default()
    }
}

fn started(input: &Input) -> Vec<(i64, String)> {
    plan(input)
        .starts
        .into_iter()
        .map(|start| (start.job, start.board))
        .collect()
}

fn ids(input: &Input) -> Vec<i64> {
    started(input).into_iter().map(|(id, _)| id).collect()
}

/// Plays rounds in which one board does one job each, until the queue is empty. Gives the order of the jobs.
fn play(mut input: Input) -> Vec<i64> {
    let mut order = Vec::new();
    while !input.waiting.is_empty() {
        let plan = plan(&input);
        assert!(
            !plan.starts.is_empty(),
            "{}",
            explain(&input, input.waiting[0].id).unwrap()
        );
        for start in plan.starts {
            let at = input
                .waiting
                .iter()
                .position(|it| it.id == start.job)
                .unwrap();
            let job = input.waiting.remove(at);
            *input.shares.entry(job.submitter).or_default() += 1.0;
            order.push(start.job);
        }
        for (id, by) in plan.overtaken {
            let found = input.waiting.iter_mut().find(|it| it.id == id);
            found.unwrap().overtaken += by;
        }
    }
    order
}

#[test]
fn a_job_gets_only_a_board_that_it_asks_for() {
    let mut tagged = board("neo2", "neo");
    tagged.tags = vec!["wifi".into(), "usb".into()];
    let boards = vec![board("neo1", "neo"), tagged, board("panda", "pandaboard")];
    let by_name = WaitingJob {
        board: Some("panda".into()),
        board_type: None,
        ..job(1, "a")
    };
    let by_tag = WaitingJob {
        tags: vec!["usb".into()],
        ..job(2, "a")
    };
    let no_board = WaitingJob {
        tags: vec!["usb".into(), "can".into()],
        ..job(4, "a")
    };
    let wrong = WaitingJob {
        board: Some("neo1".into()),
        board_type: Some("pandaboard".into()),
        ..job(5, "a")
    };
    let input = input(vec![no_board, wrong, by_name, by_tag, job(3, "a")], boards);
    let expected = [(1, "panda"), (2, "neo2"), (3, "neo1")];
    assert_eq!(
        started(&input),
        expected.map(|(id, name)| (id, name.to_string()))
    );
    assert_eq!(
        explain(&input, 4).unwrap(),
        "the lab has no board of the type `neo` with the tags usb, can"
    );
    assert_eq!(explain(&input, 5).unwrap(), "the lab has no board `neo1`");
}

#[test]
fn priority_goes_before_share_and_share_before_age() {
    let waiting = vec![
        job(1, "a"),
        job(2, "a"),
        job(3, "b"),
        with_priority(4, "a", "high"),
        with_priority(5, "b", "low"),
    ];
    assert_eq!(
        play(input(waiting, vec![board("neo1", "neo")])),
        [4, 3, 1, 2, 5]
    );
}

#[test]
fn of_two_submitters_each_gets_half_whoever_came_first() {
    let many = (1..=20).map(|id| job(id, "a"));
    let few = (21..=25).map(|id| job(id, "b"));
    let order = play(input(many.chain(few).collect(), vec![board("neo1", "neo")]));
    let last_of_few = order.iter().position(|&id| id == 25).unwrap();
    assert!(last_of_few < 11, "{order:?}");
}

#[test]
fn jobs_of_one_submitter_for_one_board_keep_their_order() {
    let named = |id, submitter: &str| WaitingJob {
        board: Some("neo1".into()),
        ..job(id, submitter)
    };
    let waiting = (1..=12).map(|id| named(id, if id % 3 == 0 { "b" } else { "a" }));
    let order = play(input(waiting.collect(), vec![board("neo1", "neo")]));
    let of = |b: bool| order.iter().copied().filter(move |id| (id % 3 == 0) == b);
    assert!(of(true).is_sorted() && of(false).is_sorted(), "{order:?}");
}

#[test]
fn a_job_of_low_priority_starts_though_urgent_ones_never_stop_coming() {
    let mut input = input(
        vec![with_priority(1, "a", "low")],
        vec![board("neo1", "neo")],
    );
    for round in 2..200 {
        input.waiting.push(with_priority(round, "b", "high"));
        let plan = plan(&input);
        let first = plan.starts[0].job;
        if first == 1 {
            assert!(round > 10, "an urgent job must go first for a while");
            assert!(plan.starts[0].reason.contains("overtaken"));
            return;
        }
        input.waiting.retain(|it| it.id != first);
        for (id, by) in plan.overtaken {
            let found = input.waiting.iter_mut().find(|it| it.id == id);
            found.unwrap().overtaken += by;
        }
    }
    panic!("the job starved");
}

#[test]
fn a_job_is_not_overtaken_by_what_runs_on_boards_that_it_cannot_use() {
    let other = WaitingJob {
        board_type: Some("pandaboard".into()),
        ..with_priority(2, "b", "high")
    };
    let input = input(vec![job(1, "a"), other], vec![board("panda", "pandaboard")]);
    assert!(plan(&input).overtaken.is_empty());
}

#[test]
fn no_board_gets_two_jobs_and_a_busy_or_reserved_or_bad_one_gets_none() {
    let standing = |name: &str, standing| BoardFact {
        standing,
        ..board(name, "neo")
    };
    let boards = vec![
        standing("neo1", Standing::Busy(17)),
        standing("neo2", Standing::Reserved("anna, for 20 min".into())),
        standing("neo3", Standing::Out("is bad: it failed".into())),
        standing("neo4", Standing::HealthOnly("job 3 failed".into())),
    ];
    let mut input = input(vec![job(30, "a"), job(31, "a")], boards);
    assert!(ids(&input).is_empty());
    assert_eq!(
        explain(&input, 31).unwrap(),
        "neo1 runs job 17; neo2 is reserved by anna, for 20 min; neo3 is bad: it failed; neo4 has its health check first: \
         job 3 failed"
    );
    input.waiting.push(WaitingJob {
        kind: Kind::Health,
        board: Some("neo4".into()),
        ..job(32, "hearth")
    });
    assert_eq!(ids(&input), [32]);
    input.boards.push(board("neo5", "neo"));
    assert_eq!(ids(&input), [32, 30]);
    assert_eq!(explain(&input, 31).unwrap(), "one job goes first");
    assert_eq!(explain(&input, 30).unwrap(), "it is about to start");
}

#[test]
fn the_host_emulates_only_so_many_boards_at_once() {
    let emulated = |name: &str| BoardFact {
        emulated: true,
        ..board(name, "neo")
    };
    let mut boards: Vec<BoardFact> = (1..=4).map(|n| emulated(&format!("e{n}"))).collect();
    boards[0].standing = Standing::Busy(1);
    boards.push(board("real", "neo"));
    let mut input = input((2..=6).map(|id| job(id, "a")).collect(), boards);
    assert_eq!(started(&input).len(), 2);
    input.boards[4].standing = Standing::Busy(8);
    input.emulated_limit = 1;
    assert!(ids(&input).is_empty());
    assert_eq!(
        explain(&input, 2).unwrap(),
        "this host emulates 1 boards at once, and all of them are in use"
    );
}

#[test]
fn a_job_that_failed_on_a_board_goes_to_another_one_if_there_is_one() {
    let again = WaitingJob {
        avoid: vec!["neo1".into()],
        ..job(1, "a")
    };
    let mut input = input(
        vec![again],
        vec![board("neo1", "neo"), board("neo2", "neo")],
    );
    assert_eq!(started(&input), [(1, "neo2".to_string())]);
    input.boards[1].standing = Standing::Busy(2);
    assert!(ids(&input).is_empty());
    assert!(explain(&input, 1).unwrap().contains("failed on neo1"));
    input.boards[1].standing = Standing::Out("is bad".into());
    assert_eq!(started(&input), [(1, "neo1".to_string())]);
}

#[test]
fn nothing_starts_while_the_lab_is_held() {
    let mut input = input(vec![job(1, "a")], vec![board("neo1", "neo")]);
    input.held = Some("the disk is full".into());
    assert_eq!(plan(&input), Plan::default());
    assert_eq!(explain(&input, 1).unwrap(), "the disk is full");
}

#[test]
fn a_thousand_boards_and_ten_thousand_jobs_are_planned_in_a_moment() {
    let boards = (0..1000)
        .map(|n| board(&format!("neo{n}"), "neo"))
        .collect();
    let waiting = (0..10_000)
        .map(|id| job(id, &format!("user{}", id % 7)))
        .collect();
    let begun = std::time::Instant::now();
    assert_eq!(ids(&input(waiting, boards)).len(), 1000);
    // Without optimisation, on a busy machine.
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}
