//! What a server offers in its answer to EHLO (RFC 5321 §4.1.1.1). Keywords are
//! read without regard to case; unknown ones are passed over.

use crate::reply::{MAXIMUM_TEXT, Reply};

/// The service extensions of one server. All absent after HELO.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// SIZE was offered (RFC 1870), with or without a limit.
    pub size: bool,
    /// Largest message in octets, when SIZE named a limit other than 0.
    pub size_limit: Option<u64>,
    /// PIPELINING, RFC 2920.
    pub pipelining: bool,
    /// CHUNKING (BDAT), RFC 3030.
    pub chunking: bool,
    /// 8BITMIME, RFC 6152.
    pub eight_bit_mime: bool,
    /// SMTPUTF8, RFC 6531.
    pub smtputf8: bool,
    /// STARTTLS, RFC 3207.
    pub starttls: bool,
    /// DSN, RFC 3461.
    pub dsn: bool,
    /// REQUIRETLS, RFC 8689.
    pub require_tls: bool,
    /// ENHANCEDSTATUSCODES, RFC 2034.
    pub enhanced_status_codes: bool,
    /// Mechanisms after AUTH, separated by one space and otherwise as sent (RFC 4954); also from the old `AUTH=`.
    pub auth: Option<String>,
}

impl Capabilities {
    /// Reads a positive reply to EHLO. Its first line is the server's name and greeting, the others one keyword each.
    pub fn from_ehlo(reply: &Reply) -> Self {
        let mut capabilities = Self::default();
        let mut text = reply.text.as_str();
        // A text at its limit was cut, and half a keyword or half a number must not be believed.
        if text.len() + 4 > MAXIMUM_TEXT {
            text = text.rsplit_once('\n').map_or("", |(whole, _cut)| whole);
        }
        for line in text.split('\n').skip(1) {
            capabilities.read_line(line);
        }
        capabilities
    }

    /// The keywords offered, as far as they are known here, with commas between them.
    pub fn keywords(&self) -> String {
        let offered = [
            ("SIZE", self.size),
            ("PIPELINING", self.pipelining),
            ("CHUNKING", self.chunking),
            ("8BITMIME", self.eight_bit_mime),
            ("SMTPUTF8", self.smtputf8),
            ("STARTTLS", self.starttls),
            ("DSN", self.dsn),
            ("ENHANCEDSTATUSCODES", self.enhanced_status_codes),
            ("AUTH", self.auth.is_some()),
        ];
        let names: Vec<&str> = offered.iter().filter(|(_, offered)| *offered).map(|(name, _)| *name).collect();
        names.join(",")
    }

    fn read_line(&mut self, line: &str) {
        let line = line.trim_ascii();
        let (keyword, parameters) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let is = |name: &str| keyword.eq_ignore_ascii_case(name);
        if is("SIZE") {
            self.read_size(parameters);
        } else if is("PIPELINING") {
            self.pipelining = true;
        } else if is("CHUNKING") {
            self.chunking = true;
        } else if is("8BITMIME") {
            self.eight_bit_mime = true;
        } else if is("SMTPUTF8") {
            self.smtputf8 = true;
        } else if is("STARTTLS") {
            self.starttls = true;
        } else if is("DSN") {
            self.dsn = true;
        } else if is("ENHANCEDSTATUSCODES") {
            self.enhanced_status_codes = true;
        } else if is("REQUIRETLS") {
            self.require_tls = true;
        } else if is("AUTH") {
            self.add_mechanisms("", parameters);
        } else if let (Some(prefix), Some(first)) = (keyword.get(..5), keyword.get(5..))
            && prefix.eq_ignore_ascii_case("AUTH=")
        {
            self.add_mechanisms(first, parameters);
        } else if let (Some(prefix), Some(limit)) = (keyword.get(..5), keyword.get(5..))
            && prefix.eq_ignore_ascii_case("SIZE=")
        {
            self.read_size(limit);
        }
    }

    fn read_size(&mut self, limit: &str) {
        self.size = true;
        self.size_limit = limit.trim_ascii().parse().ok().filter(|limit| *limit > 0);
    }

    /// Servers that offer both forms repeat themselves; each mechanism is kept once.
    fn add_mechanisms(&mut self, first: &str, others: &str) {
        let kept = self.auth.get_or_insert_default();
        for mechanism in std::iter::once(first).chain(others.split_ascii_whitespace()) {
            if mechanism.is_empty() || kept.split(' ').any(|known| known.eq_ignore_ascii_case(mechanism)) {
                continue;
            }
            if !kept.is_empty() {
                kept.push(' ');
            }
            kept.push_str(mechanism);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Capabilities {
        Capabilities::from_ehlo(&Reply::plain(250, text))
    }

    #[test]
    fn keywords_are_those_that_were_offered() {
        assert_eq!(read("a\nDSN\nX-OWN\nsize 5\nauth plain").keywords(), "SIZE,DSN,AUTH");
        assert_eq!(read("a").keywords(), "");
    }

    #[test]
    fn the_example_of_rfc_5321_appendix_d_offers_what_it_says() {
        let capabilities = read("bar.com greets foo.com\n8BITMIME\nSIZE\nDSN\nHELP");
        let expected = Capabilities { eight_bit_mime: true, size: true, dsn: true, ..Capabilities::default() };
        assert_eq!(capabilities, expected);
    }

    #[test]
    fn a_postfix_answer_is_understood() {
        let capabilities = read(
            "mx.example\nPIPELINING\nSIZE 10240000\nVRFY\nETRN\nSTARTTLS\nAUTH PLAIN LOGIN\nAUTH=PLAIN LOGIN\n\
             ENHANCEDSTATUSCODES\n8BITMIME\nDSN\nSMTPUTF8\nCHUNKING",
        );
        let expected = Capabilities {
            size: true,
            size_limit: Some(10_240_000),
            pipelining: true,
            chunking: true,
            eight_bit_mime: true,
            smtputf8: true,
            starttls: true,
            dsn: true,
            enhanced_status_codes: true,
            require_tls: false,
            auth: Some("PLAIN LOGIN".to_owned()),
        };
        assert_eq!(capabilities, expected);
    }

    #[test]
    fn case_and_white_space_do_not_matter() {
        let capabilities = read("x\n pipelining \nsize\t35882577\nStartTls\nauth=login\nSIZE 0x");
        assert!(capabilities.pipelining && capabilities.starttls && capabilities.size);
        assert_eq!(capabilities.size_limit, None);
        assert_eq!(capabilities.auth.as_deref(), Some("login"));
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        let capabilities = read("x\nSIZE 0");
        assert!(capabilities.size);
        assert_eq!(capabilities.size_limit, None);
    }

    #[test]
    fn the_name_of_the_server_is_no_keyword() {
        assert_eq!(read("PIPELINING"), Capabilities::default());
        assert_eq!(read(""), Capabilities::default());
    }

    #[test]
    fn the_last_line_of_a_cut_text_is_not_believed() {
        let mut text = format!("x\nPIPELINING\n{}", "y".repeat(MAXIMUM_TEXT - 21));
        text.push_str("\nSIZE 10");
        assert_eq!(text.len(), MAXIMUM_TEXT);
        let capabilities = read(&text);
        assert!(capabilities.pipelining && !capabilities.size);
    }
}
