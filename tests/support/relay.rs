//! A TCP relay that breaks connections, delays bytes and loses replies when a test says so.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Listens on a port of its own and passes everything on to another one.
pub(crate) struct Relay {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

/// What the test and the threads of the relay share.
#[derive(Default)]
struct Shared {
    to_port: AtomicU16,
    splitting: AtomicBool,
    split: AtomicU64,
    most_a_second: AtomicU64,
    ended: AtomicBool,
    stopped: AtomicBool,
    refusing: AtomicBool,
    dripping: AtomicBool,
    delay_to_ms: AtomicU64,
    delay_back_ms: AtomicU64,
    bytes_to: AtomicU64,
    bytes_back: AtomicU64,
    accepted: AtomicU64,
    links: Mutex<Vec<Arc<Link>>>,
}

/// One connection through the relay.
#[derive(Default)]
struct Link {
    fate: AtomicU8,
    /// What comes back is lost. Never for a link that lives on: no connection loses bytes from its middle.
    swallowing: AtomicBool,
    /// How many of the two directions have ended.
    ended: AtomicU8,
}

/// A link's fate: it lives, or its ends are closed with RST, or with FIN.
const LIVES: u8 = 0;
const RESET: u8 = 1;
const CUT: u8 = 2;

/// How long a thread waits for bytes before it looks at what the test wants.
const TICK: Duration = Duration::from_millis(5);

impl Relay {
    /// A relay to a port of this machine that changes nothing until it is told to.
    pub(crate) fn start(to_port: u16) -> Relay {
        let port = super::server::free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        listener
            .set_nonblocking(true)
            .expect("a listener that can be asked");
        let shared = Arc::new(Shared::default());
        shared.to_port.store(to_port, Ordering::SeqCst);
        let own = Arc::clone(&shared);
        let listener = std::thread::spawn(move || accept(&listener, &own));
        Relay {
            port,
            shared,
            listener: Some(listener),
        }
    }

    /// Ends all connections, of both sides, as a host that went away: RST, and what was under way is lost.
    pub(crate) fn reset(&self) {
        self.end_links(RESET);
    }

    /// Ends all connections, of both sides, in order.
    pub(crate) fn cut(&self) {
        self.end_links(CUT);
    }

    fn end_links(&self, fate: u8) {
        end_links(&self.shared, fate);
    }

    /// Closes new connections as soon as they come, until told otherwise.
    pub(crate) fn refuse(&self, yes: bool) {
        self.shared.refusing.store(yes, Ordering::SeqCst);
    }

    /// Holds every byte back for so long. What was taken goes on its way even if its sender gives up meanwhile and
    /// closes: that makes commands arrive after their own repetition.
    pub(crate) fn delay(&self, to_ms: u64, back_ms: u64) {
        self.shared.delay_to_ms.store(to_ms, Ordering::SeqCst);
        self.shared.delay_back_ms.store(back_ms, Ordering::SeqCst);
    }

    /// Passes nothing on, in no direction, until [`Relay::go_on`].
    pub(crate) fn stop(&self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
    }

    /// Ends [`Relay::stop`].
    pub(crate) fn go_on(&self) {
        self.shared.stopped.store(false, Ordering::SeqCst);
    }

    /// Writes one byte at a time.
    pub(crate) fn drip(&self, yes: bool) {
        self.shared.dripping.store(yes, Ordering::SeqCst);
    }

    /// Leads new connections to another port, as an address does that a failover has moved.
    pub(crate) fn lead_to(&self, port: u16) {
        self.shared.to_port.store(port, Ordering::SeqCst);
    }

    /// Passes at most so many bytes a second back to the clients; 0 is no limit.
    pub(crate) fn at_most(&self, bytes_a_second: u64) {
        self.shared
            .most_a_second
            .store(bytes_a_second, Ordering::SeqCst);
    }

    /// Takes the mark apart that stands at the end of a snapshot of unknown length, with a pause behind its first byte,
    /// in its middle, and before its last byte, so that no reader gets it as a whole.
    pub(crate) fn split_eof(&self) {
        self.shared.splitting.store(true, Ordering::SeqCst);
    }

    /// How many marks have been taken apart.
    pub(crate) fn eof_marks_split(&self) -> u64 {
        self.shared.split.load(Ordering::SeqCst)
    }

    /// Cuts all connections every so often, until what is returned is dropped.
    pub(crate) fn cutting_every(&self, pause: Duration) -> Cutting {
        let shared = Arc::clone(&self.shared);
        let ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut cuts = 0;
            let mut next = Instant::now() + pause;
            while !end.load(Ordering::SeqCst) {
                std::thread::sleep(TICK);
                if Instant::now() >= next {
                    // In turn as a host that went away, and as one that closes.
                    end_links(&shared, if cuts % 2 == 0 { RESET } else { CUT });
                    cuts += 1;
                    next += pause;
                }
            }
        });
        Cutting {
            ended,
            thread: Some(thread),
        }
    }

    /// For so long, what is sent arrives and its answers are lost; then all connections are reset.
    pub(crate) fn lose_replies(&self, span: Duration) {
        let links: Vec<Arc<Link>> = self.shared.links.lock().expect("no other panic").clone();
        for link in &links {
            link.swallowing.store(true, Ordering::SeqCst);
        }
        std::thread::sleep(span);
        for link in &links {
            link.fate.store(RESET, Ordering::SeqCst);
        }
    }

    /// Bytes passed on to the server.
    pub(crate) fn bytes_to(&self) -> u64 {
        self.shared.bytes_to.load(Ordering::SeqCst)
    }

    /// Bytes passed back to the clients.
    pub(crate) fn bytes_back(&self) -> u64 {
        self.shared.bytes_back.load(Ordering::SeqCst)
    }

    /// Connections that were accepted so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.reset();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn end_links(shared: &Shared, fate: u8) {
    for link in shared.links.lock().expect("no other panic").drain(..) {
        link.fate.store(fate, Ordering::SeqCst);
    }
}

/// Cuts that go on until this is dropped.
pub(crate) struct Cutting {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Cutting {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Finds the mark at the end of a snapshot of unknown length, and says where to take it apart.
#[derive(Default)]
struct EofMark {
    mark: Option<Vec<u8>>,
    /// The last bytes that have passed, in which the mark, or its announcement, may have begun.
    tail: Vec<u8>,
}

impl EofMark {
    const ANNOUNCED: &[u8] = b"$EOF:";
    const LEN: usize = 40;

    /// Where in these bytes to make a pause, and whether the mark ends in them.
    fn pauses(&mut self, chunk: &[u8]) -> (Vec<usize>, bool) {
        let before = self.tail.len();
        let mut all = std::mem::take(&mut self.tail);
        all.extend_from_slice(chunk);
        let found = |all: &[u8], what: &[u8]| all.windows(what.len()).position(|at| at == what);
        let (mut pauses, mut ended, mut from) = (Vec::new(), false, 0);
        if self.mark.is_none()
            && let Some(at) = found(&all, Self::ANNOUNCED)
        {
            let begin = at + Self::ANNOUNCED.len();
            if let Some(mark) = all.get(begin..begin + Self::LEN) {
                self.mark = Some(mark.to_vec());
                from = begin + Self::LEN;
            }
        }
        if let Some(mark) = self.mark.clone() {
            // A mark that has only begun at the end of these bytes is taken apart all the same.
            let begins = (from..all.len()).find(|at| {
                let rest = &all[*at..];
                rest.len() < Self::LEN && mark.starts_with(rest) || rest.starts_with(&mark)
            });
            if let Some(at) = begins {
                let places = [1, Self::LEN / 2, Self::LEN - 1].map(|place| at + place);
                let here = places
                    .iter()
                    .filter(|place| (before + 1..=all.len()).contains(place));
                pauses.extend(here.map(|place| place - before));
                ended = all.len() - at >= Self::LEN;
                if ended {
                    self.mark = None;
                    from = at + Self::LEN;
                }
            }
        }
        let keep = Self::LEN + Self::ANNOUNCED.len() - 1;
        self.tail = all.split_off(all.len().saturating_sub(keep).max(from));
        (pauses, ended)
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while !shared.ended.load(Ordering::SeqCst) {
        let Ok((client, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        threads.retain(|thread| !thread.is_finished());
        if shared.refusing.load(Ordering::SeqCst) {
            reset_on_close(&client);
            continue;
        }
        // Where nobody listens, the client sees its connection closed.
        let to_port = shared.to_port.load(Ordering::SeqCst);
        let Ok(server) = TcpStream::connect(("127.0.0.1", to_port)) else {
            reset_on_close(&client);
            continue;
        };
        for stream in [&client, &server] {
            // Some systems hand a listener's mode on to what it accepts.
            stream.set_nonblocking(false).expect("a blocking stream");
            stream.set_nodelay(true).expect("no delay");
            stream
                .set_read_timeout(Some(TICK))
                .expect("a limit for reading");
            stream
                .set_write_timeout(Some(TICK))
                .expect("a limit for writing");
        }
        let link = Arc::new(Link::default());
        let mut links = shared.links.lock().expect("no other panic");
        links.retain(|link| link.ended.load(Ordering::SeqCst) < 2);
        links.push(Arc::clone(&link));
        drop(links);
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        let (client, server) = (Arc::new(client), Arc::new(server));
        for back in [false, true] {
            let (from, to) = if back {
                (Arc::clone(&server), Arc::clone(&client))
            } else {
                (Arc::clone(&client), Arc::clone(&server))
            };
            let (shared, link) = (Arc::clone(shared), Arc::clone(&link));
            threads.push(std::thread::spawn(move || {
                pass_on(&from, &to, back, &shared, &link);
                link.ended.fetch_add(1, Ordering::SeqCst);
            }));
        }
    }
    for thread in threads {
        let _ = thread.join();
    }
}

/// One direction of a link, until its sender has closed and all it sent has been passed on, or until its fate comes.
fn pass_on(from: &TcpStream, to: &TcpStream, back: bool, shared: &Shared, link: &Link) {
    const MOST_HELD: usize = 4 << 20;
    let (delay, bytes) = if back {
        (&shared.delay_back_ms, &shared.bytes_back)
    } else {
        (&shared.delay_to_ms, &shared.bytes_to)
    };
    let mut held: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let (mut held_len, mut open, mut writable) = (0, true, true);
    let mut buffer = vec![0; 64 << 10];
    let mut eof_mark = EofMark::default();
    // What may not be passed on before: a limit of bytes a second, and the pauses inside a mark.
    let (mut paced, mut paused) = (Instant::now(), Instant::now());
    loop {
        match link.fate.load(Ordering::SeqCst) {
            LIVES => {}
            CUT => {
                let _ = from.shutdown(Shutdown::Both);
                let _ = to.shutdown(Shutdown::Both);
                return;
            }
            _ => {
                // The last of the two threads closes, and both ends must then be reset.
                reset_on_close(from);
                reset_on_close(to);
                return;
            }
        }
        if shared.stopped.load(Ordering::SeqCst) {
            std::thread::sleep(TICK);
            continue;
        }
        while writable
            && let Some((due, chunk)) = held.front_mut()
            && (*due).max(paced) <= Instant::now()
        {
            let most = shared.most_a_second.load(Ordering::SeqCst);
            let end = if shared.dripping.load(Ordering::SeqCst) {
                1
            } else if back && most > 0 {
                chunk.len().min((most / 100).max(1) as usize)
            } else {
                chunk.len()
            };
            let mut to = to;
            match to.write(&chunk[..end]) {
                Ok(written) => {
                    bytes.fetch_add(written as u64, Ordering::SeqCst);
                    held_len -= written;
                    if back && most > 0 {
                        let now = Instant::now();
                        paced = paced.max(now)
                            + Duration::from_micros(written as u64 * 1_000_000 / most);
                    }
                    chunk.drain(..written);
                    if chunk.is_empty() {
                        held.pop_front();
                    }
                }
                Err(error) if is_timeout(&error) => {}
                // Nobody is there to take it. The other direction may still have something to deliver.
                Err(_) => writable = false,
            }
            if link.fate.load(Ordering::SeqCst) != LIVES || shared.stopped.load(Ordering::SeqCst) {
                break;
            }
        }
        if !writable {
            held.clear();
            held_len = 0;
        }
        if !open {
            if held.is_empty() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        } else if held_len > MOST_HELD {
            std::thread::sleep(TICK);
        } else {
            // A socket's own limit is counted in coarse ticks, and what is held may be due sooner.
            let next = held.front().map_or(TICK, |(due, _)| {
                due.saturating_duration_since(Instant::now()).min(TICK)
            });
            if !is_readable(from, next) {
                continue;
            }
            let mut from = from;
            match from.read(&mut buffer) {
                Ok(0) => open = false,
                Ok(_) if back && link.swallowing.load(Ordering::SeqCst) => {}
                Ok(len) => {
                    let due = Instant::now() + Duration::from_millis(delay.load(Ordering::SeqCst));
                    let mut from = 0;
                    if back && shared.splitting.load(Ordering::SeqCst) {
                        let (pauses, ended) = eof_mark.pauses(&buffer[..len]);
                        for place in pauses {
                            held.push_back((due.max(paused), buffer[from..place].to_vec()));
                            paused = due.max(paused) + Duration::from_millis(40);
                            from = place;
                        }
                        shared.split.fetch_add(u64::from(ended), Ordering::SeqCst);
                    }
                    if from < len {
                        held.push_back((due.max(paused), buffer[from..len].to_vec()));
                    }
                    held_len += len;
                }
                Err(error) if is_timeout(&error) => {}
                Err(_) => open = false,
            }
        }
    }
}

/// Waits so long for bytes, or for the end of them.
fn is_readable(stream: &TcpStream, limit: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(stream, PollFlags::IN)];
    let limit = Timespec {
        tv_sec: 0,
        tv_nsec: limit.subsec_nanos().into(),
    };
    poll(&mut fds, Some(&limit)).is_ok_and(|ready| ready > 0)
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

/// With no time to linger, close sends RST and forgets what was not sent.
fn reset_on_close(stream: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}
