//! What one session may take, however it goes about it.

use smtp_guard::config::Config;

use crate::dialogue::check;

const MAIL: &str = "C EHLO c\n < 250\n C MAIL FROM:<>\n > MAIL\n B 250 2.1.0 Ok\n < 250\n";

fn nothing(_: &mut Config) {}

#[test]
fn postmaster_without_a_domain_counts_as_a_recipient() {
    let taken = "C RCPT TO:<postmaster>\n > RCPT\n B 250 2.1.5 Ok\n < 250\n".repeat(2);
    let text = format!("{MAIL}{taken}C RCPT TO:<postmaster>\n # refused recipients\n < 452 4.5.3");
    check("two are the limit", nothing, &text);
}
