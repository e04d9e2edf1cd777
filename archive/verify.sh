#!/bin/sh
# Verify the archive of a fiscal year without the ledger that made it.
#
# You need this file, the ledger's public key from somebody you trust, and: curl, jq, openssl, sha256sum, tar, zstd.
#
#   sh verify.sh PUBLIC_KEY FOLDER                  the archive lies in a folder: everything in it is read
#   sh verify.sh PUBLIC_KEY BUCKET PREFIX           it lies in a bucket: the signature, and what S3 itself says of each
#                                                   object. Nothing has to be restored for that
#   sh verify.sh PUBLIC_KEY BUCKET PREFIX content   besides, every object is read: restore them first
#
# PUBLIC_KEY is written name+id+key, on one line. BUCKET is its URL, such as https://books.s3.eu-central-1.amazonaws.com,
# PREFIX what the keys of the archive begin with, such as v1/books/FY2025-26/g0001. For a bucket set AWS_ACCESS_KEY_ID,
# AWS_SECRET_ACCESS_KEY and AWS_REGION (and AWS_SESSION_TOKEN); reading objects, their versions and their locks is all
# that these need to be allowed to.
#
# What it checks: the manifest is signed by the key; each object of the manifest is there, in the version that was put,
# with its size and its SHA-256, locked for as long as the manifest says; nothing else lies beside them. Of content: each
# text comes to the digest and the lines that the manifest says, the parts of a table come to that of the whole table,
# and every file that was sent comes out of the packs with its own SHA-256.
#
# Exit status: 0 all is well, 1 something is not: each line that begins with "WRONG" says what. 2 it could not be done.
set -eu
LC_ALL=C
export LC_ALL

if [ $# -lt 2 ] || [ $# -gt 4 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2
fi
public_key=$1 bucket=${2%/} prefix=${3-} depth=${4:-objects}
for tool in curl jq openssl sha256sum tar zstd; do
    command -v "$tool" >/dev/null || { echo "$tool is needed, and is not installed." >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/wrong"

wrong() { echo "WRONG $*" | tee -a "$work/wrong"; }

token=${AWS_SESSION_TOKEN:+"x-amz-security-token: $AWS_SESSION_TOKEN"}
request() { # URL and options of curl
    curl --silent --show-error --fail --retry 3 --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \
        --aws-sigv4 "aws:amz:${AWS_REGION:-us-east-1}:s3" ${token:+--header "$token"} "$@"
}

# fetch KEY VERSION TARGET. Keys are letters, digits and -._/ alone, which stand in a URL as they are.
case $bucket in
http://* | https://*)
    in_bucket=1 place=$bucket/$prefix
    fetch() { request --output "$3" "$place/$1${2:+?versionId=$2}"; }
    ;;
*)
    in_bucket='' place=$bucket depth=content
    fetch() { cp "$place/$1" "$3"; }
    ;;
esac

hex_of_base64() { openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n'; }
digest_of() { sha256sum <"$1" | cut -d' ' -f1; }
value() { jq -r "$1" "$work/MANIFEST.json"; }

# 1. The manifest is the one that was signed by the key.
fetch MANIFEST.json '' "$work/MANIFEST.json" || { echo "There is no MANIFEST.json at $place." >&2; exit 2; }
fetch MANIFEST.note '' "$work/MANIFEST.note" || { echo "There is no MANIFEST.note at $place." >&2; exit 2; }
key_name=${public_key%%+*}
key_rest=${public_key#*+}
key_id=${key_rest%%+*}
{
    printf '\060\052\060\005\006\003\053\145\160\003\041\000' # DER of an Ed25519 public key, RFC 8410
    printf '%s' "${key_rest#*+}" | openssl base64 -d -A | tail -c 32
} >"$work/key.der"
sed '/^$/,$d' "$work/MANIFEST.note" >"$work/signed"
signature=$(sed '1,/^$/d' "$work/MANIFEST.note" | grep -F -- "— $key_name " | head -n 1 | cut -d' ' -f3)
printf '%s' "$signature" | openssl base64 -d -A >"$work/signature"
if [ "$(head -c 4 "$work/signature" | od -An -v -tx1 | tr -d ' \n')" != "$key_id" ]; then
    wrong "the note is not signed by $key_name+$key_id"
else
    tail -c 64 "$work/signature" >"$work/raw_signature"
    openssl pkeyutl -verify -pubin -keyform DER -inkey "$work/key.der" -rawin -in "$work/signed" \
        -sigfile "$work/raw_signature" >/dev/null 2>&1 || wrong "the signature of the note is not that of this key"
fi
{
    printf 'ledger archive, form 1\n%s %s generation %s\n' "$(value .origin)" "$(value .fiscal_year)" "$(value .generation)"
    printf 'sha256 %s\nbytes %s\n' "$(digest_of "$work/MANIFEST.json")" "$(($(wc -c <"$work/MANIFEST.json")))"
} >"$work/expected"
cmp -s "$work/expected" "$work/signed" || wrong "the manifest is not the one that was signed"
if [ -s "$work/wrong" ]; then exit 1; fi
echo "The manifest of $(value .fiscal_year), generation $(value .generation), is signed by $key_name+$key_id."

# 2. Every object is there as the manifest says.
# The index of the packs comes before them, and the parts of a table one after the other.
value '[.definitions, .tables[].parts[], .access[], .events.parts[], .snapshots[], .files.index, .files.packs[],
    .reconciliation][] | [.key, .version, .bytes, .sha256, (.raw_sha256 // "-"), (.raw_bytes // "-"), (.lines // "-")]
    | @tsv' >"$work/objects"
retain_until=$(value .policy.retain_until) mode=$(value .policy.mode)
mkdir "$work/files" "$work/tables"

header() { sed -n "s/^$1: *//Ip" "$work/headers" | tr -d '\r' | tail -n 1; }

look_at() { # KEY VERSION BYTES SHA256: what S3 says of an object
    request --head --header 'x-amz-checksum-mode: ENABLED' --output "$work/headers" "$place/$1?versionId=$2" ||
        { wrong "$1 is not there in version $2"; return; }
    [ "$(header content-length)" = "$3" ] || wrong "$1 has $(header content-length) bytes, and had $3"
    held=$(header x-amz-checksum-sha256 | hex_of_base64)
    [ "$held" = "$4" ] || wrong "$1 has the SHA-256 ${held:-(none)}, and had $4"
    locked=$(header x-amz-object-lock-mode) until=$(header x-amz-object-lock-retain-until-date)
    [ "$locked" = "$mode" ] || wrong "$1 is locked in ${locked:-no} mode, and was in $mode"
    [ "$(printf '%.19s\n%.19s\n' "$until" "$retain_until" | sort | head -n 1)" = "$(printf '%.19s' "$retain_until")" ] ||
        wrong "$1 is locked until ${until:-(never)}, and was until $retain_until"
}

# The files that are whole: those of which as many pieces are there as the index has.
check_files() {
    for folder in "$work"/files/*/; do
        [ -d "$folder" ] || continue
        sha256=$(basename "$folder")
        pieces=$(grep -c "\"sha256\":\"$sha256\"" "$work/index") || pieces=0
        [ "$(find "$folder" -type f | wc -l)" -eq "$pieces" ] || continue
        [ "$(cat "$folder"* | sha256sum | cut -d' ' -f1)" = "$sha256" ] || wrong "the file $sha256 has other bytes"
        rm -rf "$folder"
        echo "$sha256" >>"$work/whole"
    done
}

read_content() { # KEY VERSION BYTES SHA256 RAW_SHA256 RAW_BYTES LINES
    fetch "$1" "$2" "$work/object" || { wrong "$1 cannot be read in version $2: is it there, and restored?"; return; }
    size=$(($(wc -c <"$work/object"))) digest=$(digest_of "$work/object")
    [ "$size" = "$3" ] || wrong "$1 has $size bytes, and had $3"
    [ "$digest" = "$4" ] || { wrong "$1 has the SHA-256 $digest, and had $4"; return; }
    case $1 in
    files/pack-*)
        tar -xf "$work/object" -C "$work" || wrong "$1 cannot be unpacked"
        check_files
        ;;
    esac
    [ "$5" != - ] || return 0
    zstd --decompress --quiet --force -o "$work/text" "$work/object" || { wrong "$1 cannot be decompressed"; return; }
    size=$(($(wc -c <"$work/text"))) lines=$(($(wc -l <"$work/text")))
    [ "$(digest_of "$work/text")" = "$5" ] || wrong "the text of $1 has another SHA-256 than it had"
    [ "$size" = "$6" ] || wrong "the text of $1 has $size bytes, and had $6"
    [ "$lines" = "$7" ] || wrong "the text of $1 has $lines lines, and had $7"
    case $1 in
    files/index-*) cp "$work/text" "$work/index" ;;
    data/*)
        table=$(basename "$(dirname "$1")")
        cat "$work/text" >>"$work/tables/$table"
        ;;
    esac
}

: >"$work/index"
: >"$work/whole"
while IFS="$(printf '\t')" read -r key version bytes sha256 raw_sha256 raw_bytes lines; do
    [ -z "$in_bucket" ] || look_at "$key" "$version" "$bytes" "$sha256"
    [ "$depth" != content ] ||
        read_content "$key" "$version" "$bytes" "$sha256" "$raw_sha256" "$raw_bytes" "$lines"
done <"$work/objects"
echo "$(wc -l <"$work/objects") objects were looked at."

# 3. The texts of parts come to those of tables, and the packs hold every file.
if [ "$depth" = content ]; then
    value '.tables[] | [.dataset, .text_sha256, .rows] | @tsv' >"$work/expected"
    while IFS="$(printf '\t')" read -r table sha256 rows; do
        [ -e "$work/tables/$table" ] || : >"$work/tables/$table"
        lines=$(($(wc -l <"$work/tables/$table")))
        [ "$(digest_of "$work/tables/$table")" = "$sha256" ] || wrong "the parts of $table are not the whole table"
        [ "$lines" = "$rows" ] || wrong "$table has $lines rows, and had $rows"
    done <"$work/expected"
    files=$(sort -u "$work/whole" | wc -l)
    [ "$files" -eq "$(value .files.count)" ] || wrong "$files files are whole, and $(value .files.count) were packed"
    echo "$files files came out of the packs as they were sent."
fi

# 4. Nothing hides the objects, and nothing else lies beside them.
versions_of_page() { # one a line: Version or DeleteMarker, the key, the version, whether it is the latest
    sed 's/></>\n</g' "$1" | awk -F'[<>]' '
        $2 == "Version" || $2 == "DeleteMarker" { kind = $2 }
        $2 == "Key" { key = $3 }
        $2 == "VersionId" { version = $3 }
        $2 == "IsLatest" { latest = $3 }
        $2 == "/Version" || $2 == "/DeleteMarker" { printf "%s\t%s\t%s\t%s\n", kind, key, version, latest }'
}
element() { sed 's/></>\n</g' "$work/page" | sed -n "s|^<$1>\(.*\)</$1>\$|\1|p" | head -n 1; }
encoded() { printf '%s' "$1" | sed 's|/|%2F|g'; }

if [ -n "$in_bucket" ]; then
    cut -f1,2 "$work/objects" | sort >"$work/named"
    from='' from_version=''
    while :; do
        request --output "$work/page" "$bucket?${from:+key-marker=$(encoded "$from")&}prefix=$(encoded "$prefix/")&${from:+\
version-id-marker=$from_version&}versions=" || { echo "The versions in the bucket cannot be listed." >&2; exit 2; }
        versions_of_page "$work/page" >>"$work/versions"
        [ "$(element IsTruncated)" = true ] || break
        from=$(element NextKeyMarker) from_version=$(element NextVersionIdMarker)
    done
    while IFS="$(printf '\t')" read -r kind key version latest; do
        key=${key#"$prefix"/}
        if [ "$kind" = DeleteMarker ]; then
            wrong "$key has a delete marker, $version"
            continue
        fi
        case $key in MANIFEST.json | MANIFEST.note | README.txt | verify.sh | log/*) continue ;; esac
        grep -qxF "$(printf '%s\t%s' "$key" "$version")" "$work/named" ||
            wrong "$key in version $version (latest: $latest) is no part of the archive"
    done <"$work/versions"
fi

if [ -s "$work/wrong" ]; then
    echo "$(($(wc -l <"$work/wrong"))) things are wrong." >&2
    exit 1
fi
echo "All of it is as it was signed."
