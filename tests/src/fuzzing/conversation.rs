//! Whole conversations, judged by the books of the server.

use super::model;

/// The octets are the choices of [`model`]: who says what and when, how it is cut, what breaks. So the fuzzer steers a
/// conversation where the judge alone plays one at random.
pub fn conversation(data: &[u8]) {
    if let Err(violation) = model::steered(data) {
        panic!("{violation}");
    }
}
