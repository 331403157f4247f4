//! The suite itself: each server has the same tests.

/// The tests that each server is put to, whatever it offers, by each adapter. It is given the static that starts it.
#[macro_export]
macro_rules! tests_of_every_server {
    ($server:ident) => {
        mod as_every_server {
            use $crate::servers::real::{self, Manner};

            use super::$server as SERVER;

            #[test]
            fn a_single_message() {
                real::a_single_message(&SERVER);
            }

            #[test]
            fn in_the_clear() {
                real::in_the_clear(&SERVER);
            }

            #[test]
            fn refused_and_greylisted() {
                real::refused_and_greylisted(&SERVER);
            }

            #[test]
            fn every_way_of_a_body() {
                real::every_way_of_a_body(&SERVER);
            }

            #[test]
            fn a_pool() {
                real::pool(&SERVER, &Manner::default(), 60);
            }

            #[test]
            fn a_record() {
                real::a_record(&SERVER, &Manner::default());
            }
        }
    };
}

/// The tests that each server of SMTP with PIPELINING and CHUNKING is put to as well, by both adapters. It is given the
/// static that starts it.
#[macro_export]
macro_rules! tests_of_every_smtp_server {
    ($server:ident) => {
        mod as_every_smtp_server {
            use std::time::Duration;

            use smtp_proto::{Chunking, TlsPolicy};
            use $crate::servers::real::{self, Adapter, Manner};

            use super::$server as SERVER;

            #[test]
            fn an_address_in_utf8() {
                real::an_address_in_utf8(&SERVER);
            }

            #[test]
            fn delivery_reports() {
                real::delivery_reports(&SERVER);
            }

            #[test]
            fn a_thousand_messages_blocking() {
                real::bulk(
                    &SERVER,
                    Adapter::Blocking,
                    &Manner {
                        tls: TlsPolicy::Never,
                        ..Manner::default()
                    },
                    1000,
                );
            }

            #[test]
            fn a_thousand_messages_tokio_overlapping() {
                real::bulk(
                    &SERVER,
                    Adapter::Tokio,
                    &Manner {
                        tls: TlsPolicy::Never,
                        overlap: true,
                        ..Manner::default()
                    },
                    1000,
                );
            }

            #[test]
            fn two_hundred_messages_by_data_blocking_overlapping() {
                real::bulk(
                    &SERVER,
                    Adapter::Blocking,
                    &Manner {
                        chunking: Chunking::Never,
                        overlap: true,
                        ..Manner::default()
                    },
                    200,
                );
            }

            #[test]
            fn two_hundred_messages_by_data_tokio() {
                real::bulk(
                    &SERVER,
                    Adapter::Tokio,
                    &Manner {
                        chunking: Chunking::Never,
                        ..Manner::default()
                    },
                    200,
                );
            }

            #[test]
            fn two_hundred_messages_blocking_eager() {
                real::bulk(
                    &SERVER,
                    Adapter::Blocking,
                    &Manner {
                        chunking: Chunking::Eager,
                        ..Manner::default()
                    },
                    200,
                );
            }

            #[test]
            fn two_hundred_messages_blocking_eager_and_overlapping() {
                let far = Some(real::far_away(&SERVER, Duration::from_millis(50)));
                let manner = Manner {
                    port: far,
                    chunking: Chunking::Eager,
                    overlap: true,
                    ..Manner::default()
                };
                real::bulk(&SERVER, Adapter::Blocking, &manner, 200);
            }

            #[test]
            fn two_hundred_messages_tokio_eager_and_overlapping() {
                let far = Some(real::far_away(&SERVER, Duration::from_millis(50)));
                let manner = Manner {
                    port: far,
                    chunking: Chunking::Eager,
                    overlap: true,
                    ..Manner::default()
                };
                real::bulk(&SERVER, Adapter::Tokio, &manner, 200);
            }
        }
    };
}
