//! A bad line between a worker and its coordinator: what goes through is delayed, held up or cut off.
//!
//! It works on bytes, so that what it carries may be encrypted.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// Chunks on the line at most, in each direction.
const ON_THE_LINE: usize = 256;

/// The line; it ends with its owner.
pub struct Proxy {
    shared: Arc<Shared>,
    address: String,
}

struct Shared {
    target: String,
    rules: Mutex<Rules>,
    changed: Condvar,
    connections: Mutex<Vec<TcpStream>>,
    carried: AtomicU64,
    over: AtomicBool,
}

#[derive(Clone, Copy, Default)]
struct Rules {
    delay: Duration,
    held: bool,
}

impl Proxy {
    /// A line from a free port of `address` to `target`.
    ///
    /// # Panics
    /// Where there is no free port.
    pub fn start(address: &str, target: String) -> Self {
        let listener = TcpListener::bind(format!("{address}:0")).expect("a free port");
        let address = listener.local_addr().expect("the port is known").to_string();
        let shared = Arc::new(Shared {
            target,
            rules: Mutex::default(),
            changed: Condvar::new(),
            connections: Mutex::default(),
            carried: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Self { shared, address }
    }

    /// Where it listens, as a coordinator's address.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// From now on everything takes this long, in each direction.
    pub fn delay(&self, delay: Duration) {
        lock(&self.shared.rules).delay = delay;
    }

    /// Holds everything up for a while.
    pub fn hold(&self, time: Duration) {
        lock(&self.shared.rules).held = true;
        std::thread::sleep(time);
        lock(&self.shared.rules).held = false;
        self.shared.changed.notify_all();
    }

    /// Cuts all connections, and tells how many there were.
    pub fn cut(&self) -> usize {
        let connections = std::mem::take(&mut *lock(&self.shared.connections));
        // Both ends of each stand in the list.
        connections.iter().filter(|stream| stream.shutdown(Shutdown::Both).is_ok()).count() / 2
    }

    /// Bytes that went through so far.
    pub fn carried(&self) -> u64 {
        self.shared.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.cut();
        // The listener waits for a connection to see that it is over.
        TcpStream::connect(&self.address).ok();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for incoming in listener.incoming() {
        if shared.over.load(Ordering::Relaxed) {
            return;
        }
        let Ok(incoming) = incoming else { continue };
        // A target that is away shows as a connection that ends at once.
        let Ok(outgoing) = TcpStream::connect(&shared.target) else { continue };
        let clone = |stream: &TcpStream| stream.try_clone().expect("a socket can be duplicated");
        lock(&shared.connections).extend([clone(&incoming), clone(&outgoing)]);
        for (from, to) in [(clone(&incoming), clone(&outgoing)), (outgoing, incoming)] {
            from.set_nodelay(true).ok();
            let (sender, receiver) = mpsc::sync_channel(ON_THE_LINE);
            let (reading, writing) = (Arc::clone(shared), Arc::clone(shared));
            std::thread::spawn(move || read(from, &sender, &reading));
            std::thread::spawn(move || write(to, &receiver, &writing));
        }
    }
}

fn read(mut from: TcpStream, line: &mpsc::SyncSender<(Instant, Vec<u8>)>, shared: &Shared) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length) = from.read(&mut buffer)
        && length > 0
    {
        let due = Instant::now() + lock(&shared.rules).delay;
        if line.send((due, buffer[..length].to_vec())).is_err() {
            return;
        }
    }
}

fn write(mut to: TcpStream, line: &mpsc::Receiver<(Instant, Vec<u8>)>, shared: &Shared) {
    while let Ok((due, bytes)) = line.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let free = shared.changed.wait_while(lock(&shared.rules), |rules| rules.held);
        drop(free.unwrap_or_else(PoisonError::into_inner));
        if to.write_all(&bytes).is_err() {
            break;
        }
        shared.carried.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    to.shutdown(Shutdown::Both).ok();
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_through_is_the_same_later_and_a_cut_is_noticed() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Proxy::start("127.0.0.1", target.local_addr().unwrap().to_string());
        let mut near = TcpStream::connect(&proxy.address).unwrap();
        let (mut far, _) = target.accept().unwrap();
        proxy.delay(Duration::from_millis(50));
        let start = Instant::now();
        near.write_all(b"slow").unwrap();
        let mut bytes = [0; 4];
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"slow");
        assert!(start.elapsed() >= Duration::from_millis(50));
        assert_eq!(proxy.cut(), 1);
        assert_eq!(far.read(&mut bytes).unwrap(), 0);
    }
}
