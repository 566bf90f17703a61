//! A TCP relay that breaks connections, delays bytes and loses replies when a test says so.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
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
        let own = Arc::clone(&shared);
        let listener = std::thread::spawn(move || accept(&listener, to_port, &own));
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
        for link in self.shared.links.lock().expect("no other panic").drain(..) {
            link.fate.store(fate, Ordering::SeqCst);
        }
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

fn accept(listener: &TcpListener, to_port: u16, shared: &Arc<Shared>) {
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
            && *due <= Instant::now()
        {
            let end = if shared.dripping.load(Ordering::SeqCst) {
                1
            } else {
                chunk.len()
            };
            let mut to = to;
            match to.write(&chunk[..end]) {
                Ok(written) => {
                    bytes.fetch_add(written as u64, Ordering::SeqCst);
                    held_len -= written;
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
                    held.push_back((due, buffer[..len].to_vec()));
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
