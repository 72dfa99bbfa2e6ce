//! Who may call what: identities, tokens, roles, and the gate in front of every service.
//!
//! The gate ([`Gate`]) is one layer around all services, health and reflection included. It looks the method up in one
//! table ([`table::METHODS`]); a method that the table does not name is refused. Services learn who calls from
//! [`Caller`], an extension of each request that the gate admitted.

mod access;
mod caller;
mod gate;
mod options;
mod quota;
mod registry;
mod service;
pub mod table;

pub use access::{ADDRESS, Access, OPERATOR, operator_file};
pub use caller::Caller;
pub use gate::{Gate, GateLayer};
pub use options::{AccessOptions, Plaintext};
pub use quota::{Followed, Limits as QuotaLimits, Quotas};
pub use registry::{MadeToken, Registry, RegistryError};
pub use service::AuthService;
