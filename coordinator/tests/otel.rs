//! What an OpenTelemetry collector gets of the programs, and what they do where there is none.
#![expect(clippy::unwrap_used, reason = "a test ends with what went wrong")]

#[cfg(feature = "otel")]
// One collector for the tests of all programs.
#[path = "../../shared/runtime/tests/support/collector.rs"]
mod collector;

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn mtinet(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtinet"));
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("MTINET_") || name.starts_with("OTEL_") {
            command.env_remove(&*name);
        }
    }
    command
}

/// A coordinator without TLS, and where it serves; it ends with the test.
struct Coordinator(Child, String);

impl Coordinator {
    fn start(directory: &Path, environment: &[(&str, &str)]) -> Self {
        let arguments = ["coordinator", "--listen", "127.0.0.1:0", "--metrics", "off", "--insecure"];
        let mut command = mtinet(directory, &arguments);
        let command = command.arg("--data-dir").arg(directory.join("head")).envs(environment.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
        Self(child, url)
    }

    /// An orderly end; what it said.
    fn stop(mut self) -> String {
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGTERM).unwrap();
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.0.wait().unwrap().success(), "{said}");
        said
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // It may be over already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lines<'a>(said: &'a str, words: &str) -> Vec<&'a str> {
    said.lines().filter(|line| line.contains(words)).collect()
}

/// An address at which nothing answers, for as long as this is held.
fn nobody() -> (std::net::TcpListener, String) {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", held.local_addr().unwrap());
    (held, url)
}

#[cfg(not(feature = "otel"))]
#[test]
fn a_program_without_traces_says_so_once() {
    let here = tempfile::tempdir().unwrap();
    let (_held, endpoint) = nobody();
    let coordinator = Coordinator::start(here.path(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let listed = mtinet(here.path(), &["study", "list", "--coordinator", &coordinator.1])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .output()
        .unwrap();
    assert!(listed.status.success() && !said(&listed).contains("OTEL"), "{}", said(&listed));
    let said = coordinator.stop();
    let told = lines(&said, "OTEL_EXPORTER_OTLP_ENDPOINT");
    assert!(matches!(told[..], [line] if line.contains("OTEL=1")), "{said}");
}

#[cfg(feature = "otel")]
mod traced {
    use std::time::{Duration, Instant};

    use mtinet_proto::PROTOCOL_VERSION;
    use mtinet_proto::v1::{self, coordinator_message, worker_message};
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    use super::collector::{Collector, Span};

    /// Spans that are sent at all are sent when the program ends.
    const AT_THE_END: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "600000");

    const STUDY: &str = "name = \"traced\"\ndataset = \"liver\"\narms = [\"unet\"]\nfolds = [0]\n\
        [model]\npreset = \"tiny64\"\n[train]\nimage_size = 64\n";

    /// Joins as a worker with one slot, which the first rank of a study is given; what that is told.
    async fn first_rank(url: &str, submit: impl AsyncFnOnce()) -> v1::StartRank {
        let mut client = mtinet_runtime::net::worker_client(mtinet_runtime::net::connect(url).await.unwrap());
        let join = v1::JoinRequest {
            protocol_version: PROTOCOL_VERSION,
            name: "node".into(),
            software_version: "0".into(),
        };
        let worker_id = client.join(join).await.unwrap().into_inner().worker_id;
        let (outgoing, messages) = tokio::sync::mpsc::channel(8);
        let device = Some(v1::Device { kind: v1::device::Kind::Cpu.into(), index: 0 });
        let hello = v1::Hello {
            protocol_version: PROTOCOL_VERSION,
            worker_id,
            name: "node".into(),
            slots: vec![v1::Slot { index: 0, device }],
            running: Vec::new(),
        };
        let message = |message| v1::WorkerMessage { message: Some(message) };
        outgoing.send(message(worker_message::Message::Hello(hello))).await.unwrap();
        let mut session = client.session(ReceiverStream::new(messages)).await.unwrap().into_inner();
        let beats = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(200));
            loop {
                ticks.tick().await;
                let beat = worker_message::Message::Heartbeat(v1::Heartbeat::default());
                if outgoing.send(v1::WorkerMessage { message: Some(beat) }).await.is_err() {
                    return;
                }
            }
        });
        let welcome = session.message().await.unwrap().unwrap().message.unwrap();
        assert!(matches!(welcome, coordinator_message::Message::Welcome(_)), "{welcome:?}");
        submit().await;
        loop {
            let message = session.message().await.unwrap().unwrap().message.unwrap();
            if let coordinator_message::Message::Start(start) = message {
                beats.abort();
                return start;
            }
        }
    }

    fn call(kind: &str, method: &str) -> impl Fn(&Span) -> bool {
        move |span| span.attribute("rpc.method") == method && span.kind == kind
    }

    #[test]
    fn a_study_is_one_trace_from_the_command_to_the_rank() {
        let here = tempfile::tempdir().unwrap();
        let collector = Collector::start();
        let made =
            mtinet(here.path(), &["data", "phantom", "liver", "--subjects", "14", "--size", "32"]).output();
        assert!(made.as_ref().unwrap().status.success(), "{}", said(&made.unwrap()));
        std::fs::write(here.path().join("study.toml"), STUDY).unwrap();
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str());
        let named = ("OTEL_SERVICE_NAME", "head");
        let coordinator = Coordinator::start(here.path(), &[endpoint, named, AT_THE_END]);
        let url = coordinator.1.clone();
        let submit = async || {
            let arguments = ["study", "submit", "study.toml", "--coordinator", &url];
            let mut command = mtinet(here.path(), &arguments);
            command.envs([endpoint, AT_THE_END]);
            let submitted = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
            assert!(submitted.status.success(), "{}", said(&submitted));
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let start = runtime.block_on(first_rank(&url, submit));
        // Its session would be waited for.
        drop(runtime);
        let log = coordinator.stop();
        assert_eq!(lines(&log, "traces"), [""; 0], "{log}");

        let command = collector.span("mtinet study", |span| span.parent.is_empty());
        assert_eq!(command.service, "mtinet");
        let name = "mtinet.v1.Client/SubmitStudy";
        let asked = collector.span(name, call("client", "SubmitStudy"));
        assert!(asked.is_child_of(&command), "{asked:?}");
        let served = collector.span(name, call("server", "SubmitStudy"));
        assert!(served.is_child_of(&asked), "{served:?}");
        assert_eq!((served.service.as_str(), served.attribute("rpc.grpc.status_code")), ("head", "0"));
        assert_eq!(served.resource["service.version"], env!("CARGO_PKG_VERSION"));

        let round = collector.span("round", |span| span.attribute("placed") == "1");
        collector.span("commit", |span| span.is_child_of(&round));
        assert_eq!(start.traceparent, format!("00-{}-{}-01", round.trace, round.id));
        assert!(round.is_child_of(&served), "the round that takes the study in places it: {round:?}");
    }

    #[test]
    fn a_call_that_is_refused_is_told_at_its_client() {
        let here = tempfile::tempdir().unwrap();
        let collector = Collector::start();
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str());
        let coordinator = Coordinator::start(here.path(), &[endpoint, AT_THE_END]);
        let shown = mtinet(here.path(), &["study", "show", "none", "--coordinator", &coordinator.1])
            .envs([endpoint, AT_THE_END])
            .output()
            .unwrap();
        assert_eq!(shown.status.code(), Some(1), "{}", said(&shown));
        coordinator.stop();
        let asked = collector.span("mtinet.v1.Client/GetStudy", call("client", "GetStudy"));
        assert!(asked.failure.as_deref().is_some_and(|words| words.contains("none")), "{asked:?}");
        let served = collector.span("mtinet.v1.Client/GetStudy", call("server", "GetStudy"));
        assert_eq!((served.failure.as_deref(), served.attribute("rpc.grpc.status_code")), (None, "5"));
        assert_eq!(served.service, "mtinet-coordinator");
        assert!(served.is_child_of(&asked));
    }

    #[test]
    fn a_collector_that_is_away_holds_nothing_up() {
        let here = tempfile::tempdir().unwrap();
        let (held, endpoint) = nobody();
        // What is sent there is neither taken nor refused.
        let environment =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
        let coordinator = Coordinator::start(here.path(), &environment);
        let begun = Instant::now();
        for _ in 0..3 {
            let listed = mtinet(here.path(), &["study", "list", "--coordinator", &coordinator.1])
                .envs(environment)
                .output()
                .unwrap();
            assert!(listed.status.success(), "{}", said(&listed));
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        drop(held);
        // Now it is refused.
        let listed =
            mtinet(here.path(), &["study", "list", "--coordinator", &coordinator.1]).output().unwrap();
        assert!(listed.status.success(), "{}", said(&listed));
        let begun = Instant::now();
        coordinator.stop();
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_collector_that_refuses_is_told_once() {
        let here = tempfile::tempdir().unwrap();
        let (held, endpoint) = nobody();
        drop(held);
        let environment =
            [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_SCHEDULE_DELAY", "50")];
        let coordinator = Coordinator::start(here.path(), &environment);
        for _ in 0..3 {
            let listed =
                mtinet(here.path(), &["study", "list", "--coordinator", &coordinator.1]).output().unwrap();
            assert!(listed.status.success(), "{}", said(&listed));
        }
        let said = coordinator.stop();
        assert_eq!(lines(&said, "traces do not reach the collector").len(), 1, "{said}");
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_told() {
        let here = tempfile::tempdir().unwrap();
        let (_held, endpoint) = nobody();
        let environment = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ];
        let said = Coordinator::start(here.path(), &environment).stop();
        assert!(
            matches!(lines(&said, "traces are not sent")[..], [line] if line.contains("`grpc`")),
            "{said}"
        );
    }
}
