//! Collectives between the ranks of an attempt.

use crate::error::{Result, TorchExtError, argument};
use crate::ffi::{self, Opaque, int32, milliseconds, refs, tensor_ref, text};
use crate::store::TcpStore;
use std::borrow::Borrow;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tch::Tensor;

/// What carries the collectives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Tensors on the CPU, over TCP.
    Gloo,
    /// Tensors on CUDA devices. Each rank selects its device with [`set_cuda_device`](crate::set_cuda_device) first.
    /// Its interfaces are chosen by NCCL (`NCCL_SOCKET_IFNAME`).
    Nccl,
}

/// A fixed set of ranks: c10d's process group. A clone is another handle on the same group.
///
/// All ranks call the same collectives in the same order, with tensors of the same shapes and types. After an error that
/// [is of a peer](TorchExtError::is_peer) the group is of no use any more.
///
/// With Gloo a peer's death is seen at once and a peer that hangs after `timeout`, both as an `Err`. With NCCL a collective
/// returns before the device has done it; a failure later ends the process by NCCL's own watchdog after `timeout`.
#[derive(Clone)]
pub struct ProcessGroup {
    shared: Arc<Shared>,
}

struct Shared {
    raw: *mut Opaque,
    backend: Backend,
    rank: usize,
    world_size: usize,
    /// A connection of this group's own, so that its barriers hold up nobody else's requests.
    store: TcpStore,
    prefix: String,
    barriers: AtomicU64,
}

// SAFETY: the shim launches collectives under a lock, waits for them without touching the group, and never changes the
// handle itself.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl ProcessGroup {
    /// Joins a group of `world_size` ranks that meet in `store`; returns when all are connected.
    ///
    /// `host` is the address of this machine that Gloo's connections use, and which the peers can reach (NCCL chooses for
    /// itself). `timeout` bounds the meeting and each collective. Several groups may meet in one store, if all ranks
    /// make them in the same order.
    ///
    /// # Errors
    /// [`Unavailable`](TorchExtError::Unavailable) for NCCL without a CUDA build or a device;
    /// [`Timeout`](TorchExtError::Timeout) where not all ranks come.
    pub fn new(
        backend: Backend,
        store: &TcpStore,
        rank: usize,
        world_size: usize,
        host: &str,
        timeout: Duration,
    ) -> Result<Self> {
        const OPERATION: &str = "joining the process group";
        if rank >= world_size {
            return Err(argument(OPERATION, format!("rank {rank} is not below the world size {world_size}")));
        }
        let (rank32, size32) = (int32(OPERATION, "rank", rank)?, int32(OPERATION, "world size", world_size)?);
        let prefix = store.next_group();
        let (name, address) = (text(OPERATION, &prefix)?, text(OPERATION, host)?);
        let timeout = milliseconds(timeout);
        let mut raw = ptr::null_mut();
        match backend {
            // SAFETY: the store's handle, the strings and `raw` outlive the call.
            Backend::Gloo => unsafe {
                let (prefix, host) = (name.as_ptr(), address.as_ptr());
                ffi::mtx_group_gloo(store.raw(), prefix, rank32, size32, host, timeout, &raw mut raw)
            }
            .check(OPERATION)?,
            // SAFETY: as above.
            Backend::Nccl => unsafe {
                ffi::mtx_group_nccl(store.raw(), name.as_ptr(), rank32, size32, timeout, &raw mut raw)
            }
            .check("NCCL")?,
        }
        let mut shared = Shared {
            raw,
            backend,
            rank,
            world_size,
            store: store.another()?,
            prefix: prefix.clone(),
            barriers: AtomicU64::new(0),
        };
        shared.prefix.push_str("/barrier");
        Ok(Self { shared: Arc::new(shared) })
    }

    /// This process's place in the group.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.shared.rank
    }

    /// The number of ranks.
    #[must_use]
    pub fn world_size(&self) -> usize {
        self.shared.world_size
    }

    /// What carries the collectives.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.shared.backend
    }

    /// Replaces each tensor, in place, by its sum over the ranks. Tensors of one type travel as one message.
    ///
    /// # Errors
    /// Where a peer is lost or late, or the ranks' tensors do not fit each other.
    pub fn all_reduce_sum<T: Borrow<Tensor>>(&self, tensors: &[T]) -> Result<()> {
        self.all_reduce(tensors, false, "summing over the ranks")
    }

    /// Replaces each tensor, in place, by its mean over the ranks. The tensors are of floating point.
    ///
    /// # Errors
    /// As [`all_reduce_sum`](Self::all_reduce_sum).
    pub fn all_reduce_mean<T: Borrow<Tensor>>(&self, tensors: &[T]) -> Result<()> {
        self.all_reduce(tensors, true, "averaging over the ranks")
    }

    /// Replaces each tensor, in place, by that of rank `root`.
    ///
    /// # Errors
    /// As [`all_reduce_sum`](Self::all_reduce_sum).
    pub fn broadcast<T: Borrow<Tensor>>(&self, tensors: &[T], root: usize) -> Result<()> {
        const OPERATION: &str = "broadcasting to the ranks";
        if root >= self.world_size() {
            return Err(argument(OPERATION, format!("root {root} of {} ranks", self.world_size())));
        }
        let pointers = refs(tensors);
        let root = int32(OPERATION, "root", root)?;
        // SAFETY: the handle is alive; `pointers` are tensors that `tensors` keeps alive during the call.
        unsafe { ffi::mtx_group_broadcast(self.shared.raw, pointers.as_ptr(), pointers.len(), root) }
            .check(OPERATION)
    }

    /// Every rank's `tensor`, by rank. All have the same shape and type.
    ///
    /// # Errors
    /// As [`all_reduce_sum`](Self::all_reduce_sum).
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>> {
        const OPERATION: &str = "gathering from the ranks";
        let outputs: Vec<Tensor> = (0..self.world_size()).map(|_| tensor.detach().zeros_like()).collect();
        let pointers = refs(&outputs);
        // SAFETY: the handle is alive; the pointers are tensors that live beyond the call.
        unsafe {
            ffi::mtx_group_all_gather(self.shared.raw, tensor_ref(tensor), pointers.as_ptr(), pointers.len())
        }
        .check(OPERATION)?;
        Ok(outputs)
    }

    /// Returns when every rank has called it.
    ///
    /// # Errors
    /// Where a peer is lost or late.
    pub fn barrier(&self) -> Result<()> {
        // SAFETY: the handle is alive.
        unsafe { ffi::mtx_group_barrier(self.shared.raw) }.check("waiting at the barrier")
    }

    /// Returns when every rank has called it, or says which ranks did not within `timeout`.
    ///
    /// It goes through the store, whatever the backend, and so works while the group's own connections hang.
    ///
    /// # Errors
    /// [`MissingRanks`](TorchExtError::MissingRanks); [`Connection`](TorchExtError::Connection) where the store is gone.
    pub fn monitored_barrier(&self, timeout: Duration) -> Result<()> {
        let Shared { store, rank, world_size, .. } = &*self.shared;
        let number = self.shared.barriers.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        store.set(&self.barrier_key(number, *rank), b"1")?;
        let keys: Vec<String> = (0..*world_size).map(|rank| self.barrier_key(number, rank)).collect();
        match store.wait(&keys, timeout) {
            Ok(()) => {}
            Err(TorchExtError::Timeout { .. }) => {
                let mut ranks = Vec::new();
                for (rank, key) in keys.iter().enumerate() {
                    if !store.contains(key)? {
                        ranks.push(rank);
                    }
                }
                // All may have come between the timeout and the look.
                if !ranks.is_empty() {
                    return Err(TorchExtError::MissingRanks { ranks, waited: started.elapsed() });
                }
            }
            Err(error) => return Err(error),
        }
        // Everybody is at this barrier, so nobody still reads the keys of the one before.
        if let Some(before) = number.checked_sub(1) {
            store.remove(&self.barrier_key(before, *rank))?;
        }
        Ok(())
    }

    /// Ends the group's connections: collectives under way and later ones fail, here and on the peers. May be called
    /// from any thread, such as a watchdog's.
    ///
    /// # Errors
    /// Where the backend fails to.
    pub fn abort(&self) -> Result<()> {
        // SAFETY: the handle is alive; closing connections is safe beside collectives under way.
        unsafe { ffi::mtx_group_abort(self.shared.raw) }.check("aborting the process group")
    }

    pub(crate) fn raw(&self) -> *const Opaque {
        self.shared.raw
    }

    fn all_reduce<T: Borrow<Tensor>>(
        &self,
        tensors: &[T],
        mean: bool,
        operation: &'static str,
    ) -> Result<()> {
        let pointers = refs(tensors);
        // SAFETY: the handle is alive; `pointers` are tensors that `tensors` keeps alive during the call.
        unsafe { ffi::mtx_group_all_reduce(self.shared.raw, pointers.as_ptr(), pointers.len(), mean) }
            .check(operation)
    }

    fn barrier_key(&self, number: u64, rank: usize) -> String {
        format!("{}/{number}/{rank}", self.shared.prefix)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the handle was made by the shim and is freed once; a Reducer holds a reference of its own.
        unsafe { ffi::mtx_group_free(self.raw) };
    }
}

impl std::fmt::Debug for ProcessGroup {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shared { backend, rank, world_size, .. } = &*self.shared;
        formatter
            .debug_struct("ProcessGroup")
            .field("backend", backend)
            .field("rank", rank)
            .field("world_size", world_size)
            .finish()
    }
}
