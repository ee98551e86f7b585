//! The S3 store against a server that answers what the test says.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::base::{Clock, ErrorKind};
use crate::objstore::s3::{KeyPair, S3Store};
use crate::objstore::{Created, ObjectStore, Payload, S3Options, StoreError};

/// What the server does with a request.
#[derive(Clone, Copy)]
enum Answer {
    /// Status, extra headers, body.
    Say(u16, &'static str, &'static str),
    /// Closes the connection.
    HangUp,
}
use Answer::{HangUp, Say};

/// A server that gives the answers in order and remembers the requests' first lines.
struct Script {
    requests: Arc<Mutex<Vec<String>>>,
    store: S3Store,
}

impl Script {
    async fn new(answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        // The look at the bucket comes first.
        let mut answers: Vec<Answer> = answers.iter().copied().rev().collect();
        answers.push(Say(200, "", ""));
        let seen = requests.clone();
        tokio::spawn(async move {
            let answers = Arc::new(Mutex::new(answers));
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(connection, answers.clone(), seen.clone()));
            }
        });
        let pair = KeyPair { access_key_id: "id".to_owned(), secret_access_key: "secret".to_owned() };
        let options = S3Options {
            endpoint: Some(endpoint),
            region: Some("us-east-1".to_owned()),
            key_pair: Some(pair),
            request_timeout_ms: 2_000,
            ..S3Options::default()
        };
        let store = S3Store::open("bucket", "p/", options, Clock::system()).await.unwrap();
        requests.lock().clear();
        Self { requests, store }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }
}

async fn serve(mut connection: TcpStream, answers: Arc<Mutex<Vec<Answer>>>, seen: Arc<Mutex<Vec<String>>>) {
    let mut buffer = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if connection.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..head_end]).to_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |value| value.trim().parse().unwrap());
        while buffer.len() < head_end + length {
            if connection.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let condition = if head.contains("if-none-match: *") { " if-none-match" } else { "" };
        let line = String::from_utf8_lossy(&buffer[..head_end]).lines().next().unwrap_or_default().to_owned();
        seen.lock().push(format!("{}{condition}", line.trim_end_matches(" HTTP/1.1")));
        buffer.drain(..head_end + length);
        let Some(Say(status, headers, body)) = answers.lock().pop() else { return };
        let is_head = line.starts_with("HEAD");
        let length = if is_head { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        let body = if is_head { "" } else { body };
        let answer = format!("HTTP/1.1 {status} X\r\n{headers}{length}\r\n{body}");
        if connection.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

const FOUND: Answer =
    Say(200, "content-length: 5\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\netag: \"e\"\r\n", "");
const GONE: Answer = Say(404, "", "");

fn status(code: u16, s3_code: &'static str) -> Answer {
    Say(code, "", s3_code)
}

fn payload() -> Payload {
    Bytes::from_static(b"bytes").into()
}

const CREATE: &str = "PUT /bucket/p/k if-none-match";
const LOOK: &str = "HEAD /bucket/p/k";

#[tokio::test]
async fn a_conflict_is_told_apart_by_a_look() {
    let conflict = "<Error><Code>ConditionalRequestConflict</Code><Message>in progress</Message><Key>k</Key></Error>";
    for refusal in [status(409, conflict), status(412, "<Error><Code>PreconditionFailed</Code></Error>")] {
        let script = Script::new(&[refusal, FOUND]).await;
        assert_eq!(script.store.create("k", payload()).await.unwrap(), Created::Exists);
        assert_eq!(script.requests(), [CREATE, LOOK]);

        let script = Script::new(&[refusal, GONE]).await;
        let error = script.store.create("k", payload()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("in flight"), "{error}");
        assert_eq!(script.requests(), [CREATE, LOOK]);
    }
}

#[tokio::test]
async fn nothing_is_repeated_below_our_layers() {
    let slow_down = status(503, "<Error><Code>SlowDown</Code><Message>reduce</Message></Error>");
    for trouble in [slow_down, status(500, ""), status(429, ""), HangUp] {
        let script = Script::new(&[trouble, FOUND, FOUND]).await;
        let error = script.store.create("k", payload()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retriable, "{error}");
        assert_eq!(script.requests(), [CREATE]);

        let script = Script::new(&[trouble, FOUND, FOUND]).await;
        let error = script.store.put("k", payload()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retriable, "{error}");
        assert_eq!(script.requests(), ["PUT /bucket/p/k"]);

        let script = Script::new(&[trouble, FOUND, FOUND]).await;
        let error = script.store.get_range("k", 0..5).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retriable, "{error}");
        assert_eq!(script.requests(), ["GET /bucket/p/k"]);

        let script = Script::new(&[trouble, FOUND, FOUND]).await;
        let listed: Result<Vec<_>, _> = script.store.list("x", None).try_collect().await;
        assert_eq!(listed.unwrap_err().kind(), ErrorKind::Retriable);
        assert_eq!(script.requests().len(), 1);
    }
}

#[tokio::test]
async fn refusals_name_what_to_do() {
    let denied = "<Error><Code>AccessDenied</Code><Message>no</Message></Error>";
    let no_bucket = "<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>";
    let skewed = "<Error><Code>RequestTimeTooSkewed</Code><Message>far off</Message></Error>";
    for (code, body, words) in [
        (403, denied, "403 AccessDenied: no; check the credentials"),
        (403, skewed, "set this machine's clock"),
        (404, no_bucket, "was the bucket deleted?"),
        (400, "<Error><Code>Odd</Code></Error>", "400 Odd"),
        (301, "", "AWS_REGION"),
    ] {
        let script = Script::new(&[status(code, body), status(code, body)]).await;
        let get = script.store.get("k").await.unwrap_err();
        let create = script.store.create("k", payload()).await.unwrap_err();
        for error in [get, create] {
            assert_eq!(error.kind(), ErrorKind::Environment, "{code}: {error}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(error.to_string().contains("'bucket'"), "{error}");
        }
    }
    let script = Script::new(&[status(400, "<Error><Code>ExpiredToken</Code></Error>")]).await;
    assert_eq!(script.store.get("k").await.unwrap_err().kind(), ErrorKind::Retriable);
    let script = Script::new(&[status(404, "<Error><Code>NoSuchKey</Code></Error>")]).await;
    assert_eq!(script.store.get("k").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_range_past_the_end_is_empty_only_if_the_object_is_there() {
    let past = status(416, "<Error><Code>InvalidRange</Code><Message>not satisfiable</Message></Error>");
    let script = Script::new(&[past, FOUND]).await;
    assert_eq!(script.store.get_range("k", 5..9).await.unwrap(), "");
    assert_eq!(script.requests(), ["GET /bucket/p/k", LOOK]);
    let script = Script::new(&[past, GONE]).await;
    assert_eq!(script.store.get_range("k", 5..9).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_answer_that_is_cut_short_is_no_answer() {
    let cut =
        Say(206, "content-range: bytes 0-4/5\r\nlast-modified: Wed, 21 Oct 2015 07:28:00 GMT\r\netag: \"e\"\r\n", "by");
    let script = Script::new(&[cut]).await;
    let got = script.store.get_range("k", 0..5).await;
    assert_eq!(got.unwrap_err().kind(), ErrorKind::Retriable);
}
