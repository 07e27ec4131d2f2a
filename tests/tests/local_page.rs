//! The page of `quorumkv-operator local`, looked at and used in a headless Chromium.
//!
//! Where there is no browser and none can be installed, the test is listed as ignored, and a line says why.

use std::time::Duration;

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Trial};
use quorumkv_api::Delay;
use quorumkv_tests::{
    browser::{self, Browser},
    processes::{LocalOperator, Manifest},
    wait,
};
use serde::Deserialize;

const PATIENCE: Duration = Duration::from_secs(30);
const DELAY: Delay = Delay { min: Duration::from_millis(10), max: Duration::from_millis(150) };

/// What stands in the table of nodes: name and state.
const ROWS: &str = "return [...document.querySelectorAll('#rows tr')]
    .map(row => [row.cells[0].textContent, row.cells[1].textContent])";
/// How many nodes are drawn, leaders, followers and links.
const DRAWN: &str = "return ['.node', '.node.leads', '.node.follows', '.link']
    .map(kind => document.querySelectorAll('#drawing ' + kind).length)";
const EVENTS: &str = "return document.getElementById('log').textContent";

/// The figures that a person reads.
#[derive(Debug, Deserialize)]
struct Figures {
    rate: f64,
    mean: f64,
    expected: f64,
}
const FIGURES: &str =
    "const number = id => parseFloat(document.getElementById(id).textContent.replace(/^expected /, '')) || 0;
    return {rate: number('f-rate'), mean: number('f-mean'), expected: number('f-theory')}";

fn main() {
    let arguments = Arguments::from_args();
    let missing = browser::programs().is_none();
    if missing {
        println!("left out: the page in a browser, for there is no chromedriver and chromium in PATH");
    }
    let test = || {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(the_page_shows_the_store_and_changes_it()).map_err(|error| format!("{error:#}").into())
    };
    let trial = Trial::test("the_page_shows_the_store_and_changes_it", test).with_ignored_flag(missing);
    libtest_mimic::run(&arguments, vec![trial]).exit();
}

async fn the_page_shows_the_store_and_changes_it() -> anyhow::Result<()> {
    let operator = LocalOperator::start(&Manifest { delay: DELAY, ..Manifest::default() }).await?;
    let browser = Browser::start((1280, 1600)).await?;
    browser.open(&operator.page_url()).await?;
    let outcome = use_it(&operator, &browser).await;
    let console = browser.console().await?;
    outcome.with_context(|| format!("the browser's console: {console:?}\n{}", operator.output_end(20)))?;
    let wrong: Vec<_> = console.iter().filter(|(level, _)| level == "SEVERE" || level == "WARNING").collect();
    ensure!(wrong.is_empty(), "the browser complains: {wrong:?}");
    browser.quit().await
}

async fn use_it(operator: &LocalOperator, browser: &Browser) -> anyhow::Result<()> {
    drawing_shows(browser, "six nodes", |drawn| drawn == [6, 1, 5, 6]).await?;
    for width in [320, 700, 1280] {
        browser.resize((width, 900)).await?;
        let overflow: i64 = browser.script("return document.documentElement.scrollWidth - innerWidth").await?;
        ensure!(overflow <= 0, "the page is {overflow} px too wide for {width}");
    }

    // The quorum, turned by a click, is in force on the store.
    browser.click("#quorum-choices label:nth-child(2)").await?;
    operator.leader_status("writeQuorum 2", PATIENCE, |_, status| status.write_quorum.0 == 2).await?;
    text_shows(browser, "return document.getElementById('f-quorum').textContent", "2 of 5").await?;
    text_shows(browser, EVENTS, "In force now: writeQuorum 2").await?;
    text_shows(browser, "return document.getElementById('remark').textContent", "says writeQuorum 3").await?;
    // The manifest, changed afterwards, wins.
    operator.save(&Manifest { write_quorum: 4, delay: DELAY, ..Manifest::default() }.to_string())?;
    operator.leader_status("writeQuorum 4", PATIENCE, |_, status| status.write_quorum.0 == 4).await?;
    browser.click("#quorum-choices label:nth-child(3)").await?;
    operator.leader_status("writeQuorum 3", PATIENCE, |_, status| status.write_quorum.0 == 3).await?;

    // The load is about as fast as it should be.
    browser.click("#load-button").await?;
    let near = |figures: &Figures| {
        let Figures { rate, mean, expected } = *figures;
        (expected - 80.0).abs() < 1.0 && mean > 60.0 && mean < 140.0 && rate > 20.0
    };
    wait::until("the load is near the expected mean", PATIENCE, || async {
        let figures: Figures = browser.script(FIGURES).await?;
        ensure!(near(&figures), "{figures:?}");
        Ok(())
    })
    .await?;
    let bars: usize = browser.script("return document.querySelectorAll('#histogram .bar').length").await?;
    ensure!(bars > 5, "{bars} bars");

    // A follower is killed: it is seen to be gone, and comes back.
    let victim = operator.urls()[3].trim_start_matches("http://").to_owned();
    let before = operator.node_pid(&operator.urls()[3])?;
    browser.click(&format!("button[aria-label='Kill {victim}']")).await?;
    text_shows(browser, EVENTS, &format!("{victim} is killed (SIGKILL)")).await?;
    text_shows(browser, EVENTS, &format!("{victim} ended")).await?;
    text_shows(browser, EVENTS, &format!("{victim} has caught up and counts from now on")).await?;
    drawing_shows(browser, "six nodes again", |drawn| drawn == [6, 1, 5, 6]).await?;
    ensure!(operator.node_pid(&operator.urls()[3])? != before, "it is another process");

    // One that is halted stays so until it is continued.
    let halted = operator.urls()[4].trim_start_matches("http://").to_owned();
    browser.click(&format!("button[aria-label='Halt {halted}']")).await?;
    row_shows(browser, &halted, "is halted").await?;
    browser.click(&format!("button[aria-label='Continue {halted}']")).await?;
    row_shows(browser, &halted, "follows").await?;

    // Leadership goes where it is sent, as soon as the node asked for has all that is committed.
    let wanted = operator.urls()[5].clone();
    let node = wanted.trim_start_matches("http://");
    browser.click("#load-button").await?;
    operator.whole(PATIENCE).await?;
    browser.click(&format!("button[aria-label='Make {node} the leader']")).await?;
    operator.leader_status("the wanted node leads", PATIENCE, |url, _| url == wanted).await?;
    row_shows(browser, node, "leads").await
}

async fn drawing_shows(browser: &Browser, what: &str, condition: impl Fn([usize; 4]) -> bool) -> anyhow::Result<()> {
    wait::until(what, PATIENCE, || async {
        let drawn: [usize; 4] = browser.script(DRAWN).await?;
        let rows: Vec<(String, String)> = browser.script(ROWS).await?;
        ensure!(condition(drawn) && rows.len() == 6, "{drawn:?}, {rows:?}");
        Ok(())
    })
    .await
}

async fn row_shows(browser: &Browser, node: &str, state: &str) -> anyhow::Result<()> {
    wait::until(&format!("{node} {state}"), PATIENCE, || async {
        let rows: Vec<(String, String)> = browser.script(ROWS).await?;
        ensure!(rows.iter().any(|(name, shown)| name == node && shown == state), "{rows:?}");
        Ok(())
    })
    .await
}

async fn text_shows(browser: &Browser, script: &str, expected: &str) -> anyhow::Result<()> {
    wait::until(&format!("the page says {expected:?}"), PATIENCE, || async {
        let text: String = browser.script(script).await?;
        ensure!(text.contains(expected), "{text}");
        Ok(())
    })
    .await
}
