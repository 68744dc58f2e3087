//! What is encoded is read back; what is not a message is an error.

use lazuli_nbd::negotiate::Negotiation;
use lazuli_nbd::proto::{
    CHUNK_LEN, ChunkHeader, OPTION_LEN, OPTION_REPLY_LEN, OptionHeader, OptionReply, OptionRequest, REQUEST_LEN,
    Request,
};
use proptest::prelude::*;

fn any_option() -> impl Strategy<Value = OptionRequest> {
    let named = || (".{0,40}", prop::collection::vec(any::<u16>(), 0..9));
    let queried = || (".{0,40}", prop::collection::vec(".{0,20}", 0..9));
    prop_oneof![
        ".{0,40}".prop_map(OptionRequest::ExportName),
        Just(OptionRequest::Abort),
        Just(OptionRequest::List),
        Just(OptionRequest::StructuredReply),
        named().prop_map(|(name, infos)| OptionRequest::Info { name, infos }),
        named().prop_map(|(name, infos)| OptionRequest::Go { name, infos }),
        queried().prop_map(|(name, queries)| OptionRequest::ListMetaContext { name, queries }),
        queried().prop_map(|(name, queries)| OptionRequest::SetMetaContext { name, queries }),
        (100_u32..).prop_map(OptionRequest::Unknown),
    ]
}

proptest! {
    #[test]
    fn options_round_trip(option in any_option()) {
        let bytes = option.encode();
        let (header, data) = bytes.split_first_chunk::<OPTION_LEN>().unwrap();
        let header = OptionHeader::parse(header).unwrap();
        prop_assert_eq!(header.len as usize, data.len());
        prop_assert_eq!(OptionRequest::parse(header.option, data).unwrap(), option);
    }

    #[test]
    fn cut_options_are_errors(option in any_option(), cut in 1_usize..200) {
        let bytes = option.encode();
        let data = &bytes[OPTION_LEN..];
        let free_form = matches!(option, OptionRequest::ExportName(_) | OptionRequest::Unknown(_));
        if !free_form && !data.is_empty() {
            let cut = data.len().saturating_sub(cut);
            prop_assert!(OptionRequest::parse(option.code(), &data[..cut]).is_err());
        }
    }

    #[test]
    fn replies_round_trip(option: u32, kind: u32, data in prop::collection::vec(any::<u8>(), 0..99)) {
        let reply = OptionReply { option, kind, data };
        let bytes = reply.encode();
        let (header, data) = bytes.split_first_chunk::<OPTION_REPLY_LEN>().unwrap();
        let (mut parsed, len) = OptionReply::parse_header(header).unwrap();
        prop_assert_eq!(len as usize, data.len());
        parsed.data = data.to_vec();
        prop_assert_eq!(parsed, reply);
    }

    #[test]
    fn requests_and_chunks_round_trip(flags: u16, command: u16, cookie: u64, offset: u64, len: u32) {
        let request = Request { flags, command, cookie, offset, len };
        let bytes: [u8; REQUEST_LEN] = request.encode().try_into().unwrap();
        prop_assert_eq!(Request::parse(&bytes).unwrap(), request);

        let header = ChunkHeader { flags, kind: command, cookie, len };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        let bytes: [u8; CHUNK_LEN] = bytes.try_into().unwrap();
        prop_assert_eq!(ChunkHeader::parse(&bytes).unwrap(), header);
    }

    #[test]
    fn a_negotiation_answers_anything(
        options in prop::collection::vec((0_u32..13, prop::collection::vec(any::<u8>(), 0..40)), 0..20),
    ) {
        let mut negotiation = Negotiation::new("disk", 1 << 30, false);
        for (code, data) in options {
            let (reply, _) = negotiation.option(code, &data);
            prop_assert!(reply.len() < 1000);
        }
    }
}
