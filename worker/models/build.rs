//! Lets the tests of this crate find libtorch at run time.

fn main() {
    mtinet_libtorch::link();
}
