//! The plain HTTP port for probes and Prometheus: `/livez`, `/readyz`, `/metrics`. Knows HTTP and its limits; what is
//! alive, ready and counted it asks [`HttpFacts`]. Nothing here needs a password, so nothing here may tell a secret.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// A few kubelets and Prometheus servers; whoever comes later waits in the backlog.
const CONNECTIONS_MAX: usize = 64;

/// Probes send a dozen short headers.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// A probe that takes longer to ask has been given up by its kubelet.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A scraper keeps its connection between scrapes, but not for ever: a slow reader must not hold one of the few.
const CONNECTION_LIFETIME_MAX: Duration = Duration::from_secs(120);

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

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, facts: Arc<dyn HttpFacts>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("nobody closes this semaphore");
        match listener.accept().await {
            Ok((stream, _)) => {
                let facts = Arc::clone(&facts);
                tokio::spawn(async move {
                    let _slot = slot;
                    // A probe that hangs up early is no event.
                    let _ended = tokio::time::timeout(CONNECTION_LIFETIME_MAX, connection(stream, facts)).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "http port cannot accept");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, facts: Arc<dyn HttpFacts>) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), facts.as_ref());
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
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
