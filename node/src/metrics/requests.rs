//! Requests: how many, how long, and how many at the moment; by port, method and route, never by path.
//!
//! [`Requests::layer`] counts around a route of a router. Whoever answers a request before it gets there counts it
//! with the same route's [`RouteMetrics`]. Either way it costs two looks at the clock, a few atomic operations and an
//! uncontended lock, and allocates nothing.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use axum::http::{Method, Request, Response, StatusCode};
use pin_project_lite::pin_project;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram, histogram::exponential_buckets},
    registry::{Registry, Unit},
};
use tower::{Layer, Service};

use super::Number;

/// Classes of answers. The last one is none: the client went away before there was one.
const ANSWERS: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "none"];
const UNANSWERED: usize = 5;

/// Methods that are told apart.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "DELETE", "other"];

fn number_of(method: &Method) -> usize {
    match *method {
        // Whatever takes GET takes HEAD.
        Method::GET | Method::HEAD => 0,
        Method::POST => 1,
        Method::PUT => 2,
        Method::DELETE => 3,
        _ => 4,
    }
}

/// Stands for every path that is of no route.
pub const UNKNOWN: &str = "unknown";

/// A port that takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// For clients.
    Client,
    /// For managers and other nodes.
    Peer,
    /// For Prometheus.
    Metrics,
}

impl Port {
    /// Its name in labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Peer => "peer",
            Self::Metrics => "metrics",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PortLabel {
    port: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    port: &'static str,
    method: &'static str,
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    port: &'static str,
    method: &'static str,
    route: &'static str,
    status: &'static str,
}

/// The requests to all ports. Clones share their values.
#[derive(Debug, Clone)]
pub struct Requests {
    answers: Family<AnswerLabels, Counter>,
    duration: Family<RouteLabels, Histogram, fn() -> Histogram>,
    in_flight: Family<PortLabel, Number>,
}

impl Default for Requests {
    fn default() -> Self {
        // 50 us, a read from memory, to 6.6 s, above the default write timeout.
        let seconds: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        Self {
            answers: Family::default(),
            duration: Family::new_with_constructor(seconds),
            in_flight: Family::default(),
        }
    }
}

impl Requests {
    /// Shows everything in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Requests by class of their answer; none: the client went away before it";
        registry.register("requests", help, self.answers.clone());
        let help = "Time from the head of a request to the head of its answer";
        registry.register_with_unit("request_duration", help, Unit::Seconds, self.duration.clone());
        let help = "Requests whose answer has not begun";
        registry.register("requests_in_flight", help, self.in_flight.clone());
    }

    /// The series of one method of one route, a template. They are shown from now on.
    #[must_use]
    pub fn route(&self, port: Port, method: &Method, route: &'static str) -> RouteMetrics {
        self.series(port, METHODS[number_of(method)], route)
    }

    /// Counts what passes through it as requests to one route, a template.
    #[must_use]
    pub fn layer(&self, port: Port, route: &'static str) -> CountLayer {
        CountLayer(Arc::new(Counting { requests: self.clone(), port, route, methods: Default::default() }))
    }

    fn series(&self, port: Port, method: &'static str, route: &'static str) -> RouteMetrics {
        let port = port.name();
        let answers =
            ANSWERS.map(|status| self.answers.get_or_create_owned(&AnswerLabels { port, method, route, status }));
        RouteMetrics(Arc::new(Series {
            answers,
            duration: self.duration.get_or_create_owned(&RouteLabels { port, method, route }),
            in_flight: self.in_flight.get_or_create_owned(&PortLabel { port }),
        }))
    }
}

#[derive(Debug)]
struct Series {
    answers: [Counter; 6],
    duration: Histogram,
    in_flight: Number,
}

/// What is counted of the requests to one route. Clones share their values.
#[derive(Debug, Clone)]
pub struct RouteMetrics(Arc<Series>);

impl RouteMetrics {
    /// Counts a request that was answered with `status` after `took`.
    pub fn observe(&self, status: StatusCode, took: Duration) {
        // A status code has three digits, and none of this node's begins with more than a 5.
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.0.answers[class].inc();
        self.0.duration.observe(took.as_secs_f64());
    }

    /// A request has come.
    #[must_use]
    pub fn begin(&self) -> UnderWay {
        self.0.in_flight.inc();
        UnderWay { route: self.clone(), begun: Instant::now(), status: None }
    }
}

/// A request that is under way. Dropping it says that nobody waits for its answer any more.
#[derive(Debug)]
pub struct UnderWay {
    route: RouteMetrics,
    begun: Instant,
    status: Option<StatusCode>,
}

impl UnderWay {
    /// It is answered.
    pub fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Series { answers, in_flight, .. } = &*self.route.0;
        in_flight.dec();
        match self.status {
            Some(status) => self.route.observe(status, self.begun.elapsed()),
            None => {
                answers[UNANSWERED].inc();
            }
        }
    }
}

#[derive(Debug)]
struct Counting {
    requests: Requests,
    port: Port,
    route: &'static str,
    /// Made when they are first asked for, so that nothing is shown of methods that nobody uses.
    methods: [OnceLock<RouteMetrics>; METHODS.len()],
}

impl Counting {
    fn of(&self, method: &Method) -> &RouteMetrics {
        let number = number_of(method);
        self.methods[number].get_or_init(|| self.requests.series(self.port, METHODS[number], self.route))
    }
}

/// See [`Requests::layer`].
#[derive(Debug, Clone)]
pub struct CountLayer(Arc<Counting>);

impl<Inner> Layer<Inner> for CountLayer {
    type Service = Count<Inner>;

    fn layer(&self, inner: Inner) -> Count<Inner> {
        Count { inner, counting: Arc::clone(&self.0) }
    }
}

/// The service that a [`CountLayer`] makes.
#[derive(Debug, Clone)]
pub struct Count<Inner> {
    inner: Inner,
    counting: Arc<Counting>,
}

impl<Inner, Asked, Answered> Service<Request<Asked>> for Count<Inner>
where
    Inner: Service<Request<Asked>, Response = Response<Answered>>,
{
    type Response = Inner::Response;
    type Error = Inner::Error;
    type Future = Counted<Inner::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Asked>) -> Self::Future {
        let under_way = Some(self.counting.of(request.method()).begin());
        Counted { answer: self.inner.call(request), under_way }
    }
}

pin_project! {
    /// The answer of a [`Count`].
    #[derive(Debug)]
    pub struct Counted<Answer> {
        #[pin]
        answer: Answer,
        under_way: Option<UnderWay>,
    }
}

impl<Answer, Answered, Error> Future for Counted<Answer>
where
    Answer: Future<Output = Result<Response<Answered>, Error>>,
{
    type Output = Answer::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(context));
        if let (Some(under_way), Ok(response)) = (this.under_way.take(), &answer) {
            under_way.answered(response.status());
        }
        Poll::Ready(answer)
    }
}
