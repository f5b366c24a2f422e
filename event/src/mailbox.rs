//! Coarse classes of mailbox providers, which the host derives from the domain before it hashes the address.

use serde::{Deserialize, Serialize};

/// Whose servers receive the person's mail, as far as the address alone shows. Deliberately coarse: delivery delay and
/// machine opens differ between these classes, and none of them helps to identify a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailboxProvider {
    /// Gmail's own domains.
    Gmail,
    /// Outlook.com, Hotmail, Live and MSN.
    Outlook,
    /// Yahoo, AOL and their sister domains.
    Yahoo,
    /// iCloud and its older names.
    Icloud,
    /// Everything else, including company domains.
    Other,
}

impl MailboxProvider {
    /// All classes, in a fixed order.
    pub const ALL: [Self; 5] = [Self::Gmail, Self::Outlook, Self::Yahoo, Self::Icloud, Self::Other];

    /// Returns the class of a normalized address.
    pub fn of_address(normalized: &str) -> Self {
        let domain = normalized.rsplit_once('@').map_or("", |(_, domain)| domain);
        let (name, rest) = domain.split_once('.').unwrap_or((domain, ""));
        match (name, rest) {
            ("gmail" | "googlemail", "com") => Self::Gmail,
            ("outlook" | "hotmail" | "live" | "msn", _) => Self::Outlook,
            ("yahoo" | "ymail" | "rocketmail" | "aol" | "aim", _) => Self::Yahoo,
            ("icloud" | "me" | "mac", "com") => Self::Icloud,
            _ => Self::Other,
        }
    }

    /// Returns the class's name in stored data and APIs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gmail => "gmail",
            Self::Outlook => "outlook",
            Self::Yahoo => "yahoo",
            Self::Icloud => "icloud",
            Self::Other => "other",
        }
    }

    /// Returns the class with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.as_str() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn national_domains_belong_to_their_provider() {
        let class = |address| MailboxProvider::of_address(address).as_str();
        assert_eq!(class("a@gmail.com"), "gmail");
        assert_eq!(class("a@yahoo.co.uk"), "yahoo");
        assert_eq!(class("a@hotmail.fr"), "outlook");
        assert_eq!(class("a@me.com"), "icloud");
        assert_eq!(class("a@gmail.com.example.org"), "other");
        assert_eq!(class("no address"), "other");
    }
}
