//! The key-value store through which the ranks of an attempt find each other.

use crate::error::{Result, argument};
use crate::ffi::{self, Opaque, milliseconds, text};
use std::ffi::CString;
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const WORLD_SIZE: &str = "mtinet/world-size";

/// c10d's `TCPStore`: one rank (or an agent) hosts it, the others connect.
///
/// It is neither encrypted nor authenticated: host it on loopback or on a private network.
pub struct TcpStore {
    raw: *mut Opaque,
    port: u16,
    timeout: Duration,
    /// How many groups were made from this store: ranks make theirs in the same order, so the number names the group.
    groups: AtomicU64,
}

// SAFETY: c10d::TCPStore takes a lock of its own around each request; the handle is not changed after it is made.
unsafe impl Send for TcpStore {}
// SAFETY: as above.
unsafe impl Sync for TcpStore {}

impl TcpStore {
    /// Serves a store for `world_size` ranks on `host`:`port` only, and is its first client. Waits for nobody, so that
    /// [`port`](Self::port) can be told to the others when `port` is 0. The store ends when this value is dropped.
    ///
    /// `timeout` bounds each request that waits.
    ///
    /// # Errors
    /// [`Argument`](crate::TorchExtError::Argument) where the address cannot be bound; any of the store's.
    pub fn host(host: &str, port: u16, world_size: usize, timeout: Duration) -> Result<Self> {
        const OPERATION: &str = "hosting the rank store";
        let listener = TcpListener::bind((host, port))
            .map_err(|error| argument(OPERATION, format!("cannot listen on {host}:{port}: {error}")))?;
        let port = listener
            .local_addr()
            .map_err(|error| argument(OPERATION, format!("no address on {host}: {error}")))?
            .port();
        let name = text(OPERATION, host)?;
        let mut raw = ptr::null_mut();
        // SAFETY: `name` and `raw` outlive the call; the shim takes the socket over, and nobody else has it.
        let made = unsafe {
            ffi::mtx_store_host(
                listener.into_raw_fd(),
                name.as_ptr(),
                port,
                milliseconds(timeout),
                &raw mut raw,
            )
        };
        made.check(OPERATION)?;
        let store = Self::from_raw(raw, port, timeout);
        store.set(WORLD_SIZE, world_size.to_string().as_bytes())?;
        Ok(store)
    }

    /// Connects to the store at `host`:`port`, trying again until `timeout`.
    ///
    /// # Errors
    /// [`Timeout`](crate::TorchExtError::Timeout) or [`Connection`](crate::TorchExtError::Connection) where there is none;
    /// [`Argument`](crate::TorchExtError::Argument) where it was hosted for another world size.
    pub fn connect(host: &str, port: u16, world_size: usize, timeout: Duration) -> Result<Self> {
        const OPERATION: &str = "connecting to the rank store";
        let name = text(OPERATION, host)?;
        let mut raw = ptr::null_mut();
        // SAFETY: `name` and `raw` outlive the call.
        let made =
            unsafe { ffi::mtx_store_connect(name.as_ptr(), port, milliseconds(timeout), &raw mut raw) };
        made.check(OPERATION)?;
        let store = Self::from_raw(raw, port, timeout);
        let hosted = String::from_utf8_lossy(&store.get(WORLD_SIZE)?).into_owned();
        if hosted != world_size.to_string() {
            return Err(argument(
                OPERATION,
                format!("the store at {host}:{port} is for {hosted} ranks, this one was told {world_size}"),
            ));
        }
        Ok(store)
    }

    /// The port that the store listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets a key.
    ///
    /// # Errors
    /// Where the store is gone.
    pub fn set(&self, key: &str, value: &[u8]) -> Result<()> {
        const OPERATION: &str = "setting a key of the rank store";
        let key = text(OPERATION, key)?;
        // SAFETY: key and value outlive the call, which copies them.
        unsafe { ffi::mtx_store_set(self.raw, key.as_ptr(), value.as_ptr(), value.len()) }.check(OPERATION)
    }

    /// A key's value; waits until somebody sets it, up to the store's timeout.
    ///
    /// # Errors
    /// [`Timeout`](crate::TorchExtError::Timeout) where nobody does; where the store is gone.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        const OPERATION: &str = "reading a key of the rank store";
        let key = text(OPERATION, key)?;
        let (mut value, mut length) = (ptr::null_mut(), 0);
        // SAFETY: the key and both places outlive the call.
        unsafe { ffi::mtx_store_get(self.raw, key.as_ptr(), &raw mut value, &raw mut length) }
            .check(OPERATION)?;
        // SAFETY: after success `value` points to `length` bytes that malloc returned.
        let bytes = unsafe { std::slice::from_raw_parts(value, length) }.to_vec();
        // SAFETY: it is ours to free, and is not used again.
        unsafe { ffi::mtx_free(value.cast()) };
        Ok(bytes)
    }

    /// Waits until all `keys` are set.
    ///
    /// # Errors
    /// [`Timeout`](crate::TorchExtError::Timeout) where one is not set in time; where the store is gone.
    pub fn wait(&self, keys: &[String], timeout: Duration) -> Result<()> {
        const OPERATION: &str = "waiting for keys of the rank store";
        let keys = keys.iter().map(|key| text(OPERATION, key)).collect::<Result<Vec<CString>>>()?;
        let pointers: Vec<_> = keys.iter().map(|key| key.as_ptr()).collect();
        // SAFETY: `pointers` has as many strings as it says, and they outlive the call.
        unsafe { ffi::mtx_store_wait(self.raw, pointers.as_ptr(), pointers.len(), milliseconds(timeout)) }
            .check(OPERATION)
    }

    /// Whether a key is set, without waiting.
    ///
    /// # Errors
    /// Where the store is gone.
    pub fn contains(&self, key: &str) -> Result<bool> {
        const OPERATION: &str = "looking for a key of the rank store";
        let key = text(OPERATION, key)?;
        let mut present = false;
        // SAFETY: the key and the place outlive the call.
        unsafe { ffi::mtx_store_check(self.raw, key.as_ptr(), &raw mut present) }.check(OPERATION)?;
        Ok(present)
    }

    /// Removes a key, if it is set.
    ///
    /// # Errors
    /// Where the store is gone.
    pub fn remove(&self, key: &str) -> Result<()> {
        const OPERATION: &str = "removing a key of the rank store";
        let key = text(OPERATION, key)?;
        // SAFETY: the key outlives the call.
        unsafe { ffi::mtx_store_delete(self.raw, key.as_ptr()) }.check(OPERATION)
    }

    /// Another connection to the same store: a wait on one does not hold up the other.
    pub(crate) fn another(&self) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the handle is alive and `raw` outlives the call.
        unsafe { ffi::mtx_store_clone(self.raw, &raw mut raw) }
            .check("connecting to the rank store again")?;
        Ok(Self::from_raw(raw, self.port, self.timeout))
    }

    /// The prefix of the next group's keys.
    pub(crate) fn next_group(&self) -> String {
        format!("mtinet/group/{}", self.groups.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn raw(&self) -> *const Opaque {
        self.raw
    }

    fn from_raw(raw: *mut Opaque, port: u16, timeout: Duration) -> Self {
        Self { raw, port, timeout, groups: AtomicU64::new(0) }
    }
}

impl Drop for TcpStore {
    fn drop(&mut self) {
        // SAFETY: the handle was made by the shim and is freed once. Groups hold references of their own.
        unsafe { ffi::mtx_store_free(self.raw) };
    }
}

impl std::fmt::Debug for TcpStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TcpStore").field("port", &self.port).field("timeout", &self.timeout).finish()
    }
}
