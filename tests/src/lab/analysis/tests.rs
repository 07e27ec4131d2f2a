use std::collections::BTreeMap;

use clap::Parser as _;

use super::*;
use crate::{drawing::tests::assert_readable, lab::statistics::Summary};

fn level(quorum: u8, acked: u64, failed: u64, mean_ms: f64) -> Level {
    let latency = Summary {
        count: 120,
        min: mean_ms / 3.0,
        mean: mean_ms,
        median: mean_ms * 1.02,
        p95: mean_ms * 1.2 + 15.0,
        p99: mean_ms * 1.2 + 17.0,
        max: mean_ms * 1.2 + 19.0,
        deviation: 20.0,
    };
    let measured = Measured {
        acked,
        failed: if failed == 0 { BTreeMap::new() } else { BTreeMap::from([("500".to_owned(), failed)]) },
        least_replicas: Some(usize::from(quorum)),
        seconds: 1.0,
        writes_per_second: if mean_ms > 0.0 { 12_000.0 / mean_ms } else { 0.0 },
        latency_ms: (acked > 0).then_some(latency),
        replication_latency_ms: None,
        latencies_ms: Vec::new(),
    };
    let limit = Limit::new(published::DELAY, quorum, 5).figures(12);
    Level { write_quorum: quorum, measured, limit, published: published::figures_of(quorum) }
}

fn analysis(levels: Vec<Level>) -> Analysis {
    Analysis {
        store: "a test".to_owned(),
        passed: true,
        followers: 5,
        delay: published::DELAY,
        clients: 12,
        writes: 120,
        keys: 15,
        levels,
        checks: Vec::new(),
        files: Vec::new(),
    }
}

fn labs() -> Analysis {
    analysis([34.1, 57.0, 81.2, 103.9, 127.0].into_iter().zip(1..).map(|(mean, q)| level(q, 120, 0, mean)).collect())
}

#[test]
fn the_defaults_are_the_labs() {
    let options = Options::parse_from(["quorum_analysis"]);
    assert_eq!((options.writes, options.keys, options.clients, options.strict), (120, 15, 12, false));
    assert_eq!(options.delay.delay(), Ok(published::DELAY));
    assert_eq!((options.quorums, options.results.as_path()), (vec![], Path::new("results")));
    let some = Options::parse_from(["quorum_analysis", "--quorums", "1,3"]);
    assert_eq!(some.quorums, [1, 3]);
    for wrong in ["--quorums=0", "--quorums=x", "--writes=0", "--clients=0"] {
        let error = Options::try_parse_from(["quorum_analysis", wrong]).expect_err(wrong);
        assert_eq!(error.exit_code(), 2, "{error}");
    }
}

#[test]
fn the_picture_is_drawn_whatever_was_measured() {
    let nothing = analysis(vec![level(1, 0, 120, 0.0)]);
    let some = analysis(vec![level(2, 100, 20, 60.0), level(4, 120, 0, 110.0)]);
    let nine = analysis((1..=9).map(|quorum| level(quorum, 120, 0, 14.0 * f64::from(quorum))).collect());
    for (what, analysis) in [("the lab", labs()), ("nothing", nothing), ("some", some), ("nine", nine)] {
        let svg = picture::svg(&analysis).expect(what);
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{what}");
        assert_readable(what, &svg);
    }
    picture::svg(&analysis(Vec::new())).expect_err("nothing to draw");
}

#[test]
fn the_picture_has_its_text_from_the_font_it_brings() {
    let svg = picture::svg(&labs()).expect("drawn");
    let other = svg.replace("Noto Sans, Helvetica, Arial, sans-serif", "a font that nobody has");
    assert_ne!(svg, other);
    let [with_text, without] = [svg, other].map(|svg| drawing::png(&svg).expect("rendered").len());
    assert!(with_text > without * 3 / 2, "{with_text} bytes with text, {without} without");
}

#[test]
fn the_report_has_every_quorum_beside_its_limit_and_the_lab() {
    let text = report::markdown(&labs());
    // Quorum 3: measured, its limit, the lab's mean and throughput.
    for figure in ["81.2", "80.0", "267.6", "43.4"] {
        assert!(text.contains(figure), "{figure} is missing in {text}");
    }
    let mut other = labs();
    other.levels.iter_mut().for_each(|level| level.published = None);
    assert!(!report::markdown(&other).contains("classroom lab"), "other loads have nothing to compare with");
}

#[test]
fn files_are_written_and_the_json_is_an_object() {
    let folder = tempfile::tempdir().expect("a folder");
    let written = labs().write_files(folder.path()).expect("written");
    assert_eq!(written.len(), 4);
    let json = fs::read_to_string(folder.path().join("quorum_analysis.json")).expect("written");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["levels"][2]["writeQuorum"], 3);
    assert_eq!(json["levels"][2]["limit"]["mean"], 80.0);
    assert_eq!(json["delay"]["max"], "150ms");
}

/// What the check of the mean says of a mean, by how far it is from the limit of quorum 3, which is 80 ms.
fn judged(mean_ms: f64, strict: bool) -> bool {
    let limit = Limit::new(published::DELAY, 3, 5);
    let context = program::Context::silent();
    let mut checks = Checks::new(&context);
    check_latency("latency", &level(3, 120, 0, mean_ms).measured, limit, strict, &mut checks);
    all_passed(&checks.finish())
}

#[test]
fn a_mean_below_what_the_delay_allows_is_refused_and_one_above_only_strictly() {
    // The standard error of 120 writes is 2.4 ms.
    assert!(!judged(60.0, false), "answered before its quorum");
    assert!(judged(75.0, false) && judged(200.0, false));
    assert!(judged(82.5, true) && !judged(83.0, true));
}

#[test]
fn throughput_is_judged_by_the_mean_latency() {
    let context = program::Context::silent();
    for (rate, good) in [(150.0, true), (146.0, true), (145.0, false), (0.0, false)] {
        let mut measured = level(3, 120, 0, 80.0).measured;
        measured.writes_per_second = rate;
        let mut checks = Checks::new(&context);
        check_throughput("throughput".to_owned(), &measured, 12, &mut checks);
        assert_eq!(all_passed(&checks.finish()), good, "{rate}");
    }
}
