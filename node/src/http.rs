//! The plain HTTP port for probes and Prometheus: `/livez`, `/readyz`, `/metrics`. Knows HTTP and its limits; what is
//! alive, ready and counted it asks [`HttpFacts`]. Nothing here needs a password, so nothing here may tell a secret, and
//! strangers may connect as often as they like: one request a connection, and whoever dawdles gives way to who comes.

use std::cmp::Reverse;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// A few kubelets and Prometheus servers; one more, and an older one gives way.
const CONNECTIONS_MAX: usize = 64;

/// Probes send a dozen short headers.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// A probe that takes longer to ask has been given up by its kubelet, which waits for a second unless told otherwise.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(2);

/// As long as Prometheus waits for an answer: a slow reader must not hold one of the few.
const CONNECTION_LIFETIME_MAX: Duration = Duration::from_secs(10);

/// Time between attempts to accept when the process is out of files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What the node tells about itself. Each call must be quick: it runs on the thread of the control plane.
pub trait HttpFacts: Send + Sync + 'static {
    /// The process works. `Err` says in a sentence why a restart would help; losing a quorum is no such reason.
    fn live(&self) -> Result<(), String>;

    /// Clients may be sent here. `Err` says in a sentence why not yet.
    fn ready(&self) -> Result<(), String>;

    /// Everything counted, in Prometheus' text format; [`MetricsText`] writes it.
    fn metrics(&self) -> String;

    /// What the data here amounts to, for tests: position and epoch of the stream of effects, and a digest of every key. `None`
    /// unless `DEBUG` is allowed.
    fn digest(&self) -> Option<String> {
        None
    }
}

/// A connection that is open.
struct Open {
    task: AbortHandle,
    from: IpAddr,
    /// Its request has arrived.
    asked: Arc<AtomicBool>,
}

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, facts: Arc<dyn HttpFacts>) {
    let mut tasks = JoinSet::new();
    // In the order in which they came.
    let mut open: Vec<Open> = Vec::with_capacity(CONNECTIONS_MAX);
    loop {
        let accepted = tokio::select! {
            Some(_) = tasks.join_next() => {
                open.retain(|one| !one.task.is_finished());
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                if open.len() >= CONNECTIONS_MAX
                    && let Some(at) = gives_way(&open)
                {
                    open.remove(at).task.abort();
                }
                let (facts, asked) = (Arc::clone(&facts), Arc::new(AtomicBool::new(false)));
                // A probe that hangs up early is no event.
                let served = tokio::time::timeout(CONNECTION_LIFETIME_MAX, connection(stream, facts, asked.clone()));
                let task = tasks.spawn(async move { drop(served.await) });
                open.push(Open { task, from: from.ip(), asked });
                // What it has sent already is read before somebody else's coming can end it.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::warn!(%error, "http port cannot accept");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Who gives way: of the address with most connections the one that has not asked yet, and of those the oldest.
fn gives_way(open: &[Open]) -> Option<usize> {
    let from_there = |from| open.iter().filter(|one| one.from == from).count();
    (0..open.len()).max_by_key(|at| {
        let one = &open[*at];
        (from_there(one.from), !one.asked.load(Ordering::Relaxed), Reverse(*at))
    })
}

async fn connection(stream: TcpStream, facts: Arc<dyn HttpFacts>, asked: Arc<AtomicBool>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        let response = answer(request.method(), request.uri().path(), facts.as_ref());
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(method: &Method, path: &str, facts: &dyn HttpFacts) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/livez" => probe(facts.live()),
        "/readyz" => probe(facts.ready()),
        "/metrics" => text(StatusCode::OK, facts.metrics()),
        "/debug/digest" => match facts.digest() {
            Some(digest) => text(StatusCode::OK, digest),
            None => text(StatusCode::FORBIDDEN, "set enable-debug-command\n".to_owned()),
        },
        _ => text(StatusCode::NOT_FOUND, "there are /livez, /readyz and /metrics\n".to_owned()),
    }
}

fn probe(fact: Result<(), String>) -> Response<Full<Bytes>> {
    match fact {
        Ok(()) => text(StatusCode::OK, "ok\n".to_owned()),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // The version is that of Prometheus' text format; probes do not look.
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    response
}

/// Writes Prometheus' text format: one family after the other, each with its help and its samples.
#[derive(Debug, Default)]
pub struct MetricsText {
    text: String,
}

/// Name and value of each label of a sample.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl MetricsText {
    /// A number that only grows. By convention its name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.counters(name, help, &[(&[], value)]);
    }

    /// A family of numbers that only grow.
    pub fn counters(&mut self, name: &str, help: &str, samples: &[(Labels<'_>, u64)]) {
        self.family(name, "counter", help, samples);
    }

    /// A family of times that only grow.
    pub fn seconds(&mut self, name: &str, help: &str, samples: &[(Labels<'_>, f64)]) {
        self.family(name, "counter", help, samples);
    }

    /// A number that grows and shrinks. By convention its name ends in its unit.
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) {
        self.gauges(name, help, &[(&[], value)]);
    }

    /// A family of numbers that grow and shrink.
    pub fn gauges(&mut self, name: &str, help: &str, samples: &[(Labels<'_>, f64)]) {
        self.family(name, "gauge", help, samples);
    }

    /// All that was written.
    pub fn into_text(self) -> String {
        self.text
    }

    fn family<V: std::fmt::Display>(&mut self, name: &str, kind: &str, help: &str, samples: &[(Labels<'_>, V)]) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let out = &mut self.text;
        write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect("a String takes everything");
        for (labels, value) in samples {
            out.push_str(name);
            for (at, (label, label_value)) in labels.iter().enumerate() {
                let opening = if at == 0 { '{' } else { ',' };
                let escaped = label_value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                write!(out, "{opening}{label}=\"{escaped}\"").expect("a String takes everything");
            }
            let closing = if labels.is_empty() { "" } else { "}" };
            writeln!(out, "{closing} {value}").expect("a String takes everything");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Loading;

    impl HttpFacts for Loading {
        fn live(&self) -> Result<(), String> {
            Ok(())
        }

        fn ready(&self) -> Result<(), String> {
            Err("no leader is known yet".to_owned())
        }

        fn metrics(&self) -> String {
            let mut text = MetricsText::default();
            text.counters("keyward_refused_total", "Refusals.", &[(&[("why", "a\"b"), ("how", "c")], 3)]);
            text.gauge("keyward_memory_bytes", "Memory.", 1.5);
            text.into_text()
        }
    }

    async fn ask(requests: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Loading)));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(requests.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _reset_is_fine = stream.read_to_end(&mut answer).await;
        server.abort();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn probes_say_yes_or_why_not() {
        let live = ask("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(live.starts_with("HTTP/1.1 200 OK\r\n") && live.ends_with("\r\n\r\nok\n"), "{live}");
        let ready = ask("GET /readyz?verbose HTTP/1.0\r\n\r\n").await;
        assert!(ready.starts_with("HTTP/1.0 503 ") && ready.ends_with("no leader is known yet\n"), "{ready}");
    }

    // Two hundred strangers with half a header each, who came back whenever they were sent away, made a kubelet restart the node.
    #[tokio::test]
    async fn who_does_not_finish_asking_keeps_no_probe_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Loading)));
        let strangers = (0..200).map(|_| {
            tokio::spawn(async move {
                loop {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    let _sent_away = stream.write_all(b"GET /livez HTTP/1.1\r\nhost: ").await;
                    let _sent_away = stream.read(&mut [0; 100]).await;
                }
            })
        });
        let strangers: Vec<_> = strangers.collect();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let probe = async {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await.unwrap();
                answer
            };
            let answer = tokio::time::timeout(Duration::from_secs(1), probe).await.expect("a probe waits for a second");
            assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        }
        strangers.iter().for_each(tokio::task::JoinHandle::abort);
        server.abort();
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text() {
        let metrics = ask("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
        assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
        assert!(metrics.ends_with(
            "# HELP keyward_refused_total Refusals.\n# TYPE keyward_refused_total counter\n\
             keyward_refused_total{why=\"a\\\"b\",how=\"c\"} 3\n\
             # HELP keyward_memory_bytes Memory.\n# TYPE keyward_memory_bytes gauge\nkeyward_memory_bytes 1.5\n"
        ));
    }

    #[tokio::test]
    async fn anything_else_is_refused_and_the_connection_ends() {
        assert!(ask("GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 404 "));
        assert!(ask("DELETE /livez HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 405 "));
        assert!(ask("*1\r\n$4\r\nPING\r\n").await.starts_with("HTTP/1.1 400 "));
        let long = format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(HEADER_BYTES_MAX));
        assert!(ask(&long).await.starts_with("HTTP/1.1 431 "));
    }
}
