#!/bin/sh
# Verify the archive of a fiscal year without the ledger that made it.
#
# You need this file from somebody you trust, the ledger's public key likewise, and: curl, jq, openssl 3, sha256sum,
# tar, zstd.
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
# What it checks: the manifest is signed by the key, for this year and generation; the archive before it is the one that
# it names, if that is in the same place; each object of the manifest is there, in the version that was put, with its
# size, SHA-256 and class, locked for as long as the manifest says; nothing hides them or lies beside them. Of content:
# each text comes to the digest and the lines that the manifest says, the parts of a table come to that of the whole
# table, and every file that was sent comes out of the packs with its own SHA-256.
#
# Exit status: 0 all is well. 1 something is not: each line that begins with WRONG says what. 2 it could not be done, or
# not all of it: each line that begins with COLD names an object that has to be restored before it can be read.
set -eu
LC_ALL=C
export LC_ALL
tab=$(printf '\t')

begin() { # what was asked for
    if [ $# -lt 2 ] || [ $# -gt 4 ]; then
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        exit 2
    fi
    public_key=$1 bucket=${2%/} prefix=${3-} depth=${4:-objects}
    prefix=${prefix%/}
    for tool in curl jq openssl sha256sum tar zstd; do
        command -v "$tool" >/dev/null || fail "$tool is needed, and is not installed."
    done
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    : >"$work/wrong"
    : >"$work/cold"
}
fail() { printf '%s\n' "$*" >&2; exit 2; }
wrong() { printf 'WRONG %s\n' "$*" | tee -a "$work/wrong"; }
digest_of() {
    found=$(sha256sum <"$1")
    echo "${found%% *}"
}
hexadecimal() { od -An -v -tx1 | tr -d ' \n'; }
value() { jq -r "$1" "$work/MANIFEST.json"; }

# 1. How an object is fetched: fetch KEY VERSION TARGET fails if there is none. Keys are letters, digits and -._/ alone,
# which stand in a URL as they are.
request() { # TARGET and options of curl, the URL last; fails if there is no such thing
    target=$1
    shift
    status=$(curl --config "$work/curl" --silent --show-error --retry 3 --output "$target" \
        --write-out '%{http_code}' --aws-sigv4 "aws:amz:${AWS_REGION:-${AWS_DEFAULT_REGION:-us-east-1}}:s3" "$@") ||
        fail "The bucket cannot be reached."
    case $status in
    200) ;;
    400 | 403 | 404 | 405) return 1 ;;
    *) fail "The bucket answers with status $status." ;;
    esac
}
versions_of_page() { # one a line: Version or DeleteMarker, the key, the version
    sed 's/></>\n</g' "$1" | awk -F'[<>]' '
        $2 == "Version" || $2 == "DeleteMarker" { kind = $2 }
        $2 == "Key" { key = $3 }
        $2 == "VersionId" { version = $3 }
        $2 == "/Version" || $2 == "/DeleteMarker" { printf "%s\t%s\t%s\n", kind, key, version }'
}
element() { sed 's/></>\n</g' "$work/page" | sed -n "s|^<$1>\(.*\)</$1>\$|\1|p" | head -n 1; }
encoded() { printf '%s' "$1" | sed 's/&lt;/</g; s/&gt;/>/g; s/&quot;/"/g; s/&amp;/\&/g' | jq -sRr @uri; }
list_versions() { # PREFIX TARGET: those of a key come one after the other, the newest first
    from='' from_version=''
    : >"$2"
    while :; do
        request "$work/page" "$bucket?${from:+key-marker=$(encoded "$from")&}prefix=$(encoded "$1")&${from_version:+\
version-id-marker=$(encoded "$from_version")&}versions=" || fail "The versions in the bucket cannot be listed."
        versions_of_page "$work/page" >>"$2"
        [ "$(element IsTruncated)" = true ] || break
        from=$(element NextKeyMarker) from_version=$(element NextVersionIdMarker)
    done
}
first_version() { # LIST KEY: of several versions of a manifest the oldest counts, the only one that an archiver put
    awk -F'\t' -v key="$2" '$1 == "Version" && $2 == key { found = $3 } END { print found }' "$1"
}

open_place() {
    case $bucket in
    http://* | https://*)
        in_bucket=1
        [ -n "$prefix" ] || fail "Give the prefix of the archive."
        {
            printf 'user = "%s:%s"\n' "$AWS_ACCESS_KEY_ID" "$AWS_SECRET_ACCESS_KEY"
            [ -z "${AWS_SESSION_TOKEN-}" ] || printf 'header = "x-amz-security-token: %s"\n' "$AWS_SESSION_TOKEN"
        } >"$work/curl"
        list_versions "$prefix/" "$work/versions"
        [ -s "$work/versions" ] || fail "There is nothing at $bucket/$prefix."
        ;;
    *)
        in_bucket='' depth=content prefix=$(cd "$bucket" && pwd)
        (cd "$bucket" && find . -type f | sed "s|^\./|Version$tab$prefix/|; s|\$|$tab-|") >"$work/versions"
        ;;
    esac
}
fetch() {
    if [ -n "$in_bucket" ]; then
        request "$3" "$bucket/$prefix/$1?versionId=$2"
    else
        [ -f "$bucket/$1" ] && cat "$bucket/$1" >"$3"
    fi
}

# 2. The manifest is the one that was signed by the key, and the one of this place. It is not looked into before.
fetch_manifest() {
    for name in MANIFEST.json MANIFEST.note; do
        version=$(first_version "$work/versions" "$prefix/$name")
        if [ -z "$version" ] || ! fetch "$name" "$version" "$work/$name"; then
            wrong "$name is not there"
            exit 1
        fi
        printf '%s\t%s\n' "$name" "$version" >>"$work/named"
    done
}
read_key() {
    key_name=${public_key%%+*}
    key_rest=${public_key#*+}
    key_id=${key_rest%%+*}
    {
        printf '\060\052\060\005\006\003\053\145\160\003\041\000' # DER of an Ed25519 public key, RFC 8410
        printf '%s' "${key_rest#*+}" | openssl base64 -d -A | tail -c 32
    } >"$work/key.der"
}
check_note() { # NOTE: what it says is signed by the key, and it says nothing besides
    sed '/^$/,$d' "$1" >"$work/signed"
    signature=$(sed '1,/^$/d' "$1" | grep -F -- "— $key_name " | head -n 1 | cut -d' ' -f3) || signature=''
    printf '%s' "$signature" | openssl base64 -d -A >"$work/signature" 2>/dev/null || : >"$work/signature"
    if [ "$(head -c 4 "$work/signature" | hexadecimal)" != "$key_id" ]; then
        wrong "MANIFEST.note is not signed by $key_name+$key_id"
        return 0
    fi
    tail -c +5 "$work/signature" >"$work/raw_signature"
    openssl pkeyutl -verify -pubin -keyform DER -inkey "$work/key.der" -rawin -in "$work/signed" \
        -sigfile "$work/raw_signature" >/dev/null 2>&1 || wrong "MANIFEST.note has a signature that is not of its text"
    # A signature can be written in more than one way; only one is that of the ledger, which puts nothing behind it.
    { cat "$work/signed"; printf '\n— %s %s\n' "$key_name" "$(openssl base64 -A <"$work/signature")"; } |
        cmp -s - "$1" || wrong "MANIFEST.note is not as it was written"
}
check_manifest() { # MANIFEST: it has the digest and the size that were signed
    { read -r _ && read -r _ && read -r told_digest && read -r told_size; } <"$work/signed" || told_digest=''
    if [ "$told_digest" != "sha256 $(digest_of "$1")" ] || [ "$told_size" != "bytes $(($(wc -c <"$1")))" ]; then
        wrong "MANIFEST.json is not the one that was signed"
    fi
}
check_manifest_place() { # and it is the one of the year and the generation that were signed, in their place
    year=$(value .fiscal_year) generation=$(value .generation)
    {
        printf 'ledger archive, form 1\n%s %s generation %s\n' "$(value .origin)" "$year" "$generation"
        printf '%s\n%s\n' "$told_digest" "$told_size"
    } | cmp -s - "$work/signed" || wrong "MANIFEST.json is not of what was signed"
    case $prefix in
    *"$(place_of "$year" "$generation")") ;;
    *) wrong "MANIFEST.json is that of $year, generation $generation, which is another place" ;;
    esac
    echo "The manifest of $year, generation $generation, is signed by $key_name+$key_id."
}
place_of() { printf '/%s/g%04d' "$1" "$2"; }

# 3. It goes on from the archive that was made before it, if that is here.
check_previous() {
    [ "$(value .previous)" != null ] || return 0
    base=${prefix%/*/*}$(place_of "$(value .previous.fiscal_year)" "$(value .previous.generation)")
    : >"$work/previous"
    if [ -n "$in_bucket" ]; then
        list_versions "$base/" "$work/others"
        version=$(first_version "$work/others" "$base/MANIFEST.json")
        [ -z "$version" ] || request "$work/previous" "$bucket/$base/MANIFEST.json?versionId=$version" || :
    else
        find "$base" -type f >"$work/others" 2>/dev/null || :
        [ ! -f "$base/MANIFEST.json" ] || cat "$base/MANIFEST.json" >"$work/previous"
    fi
    if [ ! -s "$work/others" ]; then
        echo "The archive before it, $(value .previous.fiscal_year), is not here."
    elif [ "$(digest_of "$work/previous")" != "$(value .previous.manifest_sha256)" ]; then
        wrong "$base/MANIFEST.json is not the one that this archive goes on from"
    fi
}

# 4. Every object is there as the manifest says.
look_at() { # KEY VERSION [BYTES SHA256 CLASS]: what S3 says of an object
    request "$work/headers" --head --header 'x-amz-checksum-mode: ENABLED' "$bucket/$prefix/$1?versionId=$2" ||
        { wrong "$1 is not there in version $2"; return 0; }
    awk -v bytes="${3-}" -v sha256="${4-}" -v class="${5-}" -v mode="$mode" -v until="$retain_until" '
        function hexadecimal(text,    digits, bits, place, found) {
            digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
            for (place = 1; place + 3 <= length(text); place += 4) {
                bits = (index(digits, substr(text, place, 1)) - 1) * 262144
                bits += (index(digits, substr(text, place + 1, 1)) - 1) * 4096
                if (substr(text, place + 2, 1) != "=") bits += (index(digits, substr(text, place + 2, 1)) - 1) * 64
                if (substr(text, place + 3, 1) != "=") bits += index(digits, substr(text, place + 3, 1)) - 1
                found = found sprintf("%06x", bits)
            }
            return substr(found, 1, 64)
        }
        /^HTTP/ { split("", header) }
        {
            sub(/\r$/, "")
            colon = index($0, ":")
            if (colon) { header[tolower(substr($0, 1, colon - 1))] = substr($0, colon + 2) }
        }
        END {
            locked = header["x-amz-object-lock-mode"]
            end = header["x-amz-object-lock-retain-until-date"]
            if (locked != mode && locked != "COMPLIANCE")
                printf "is locked in %s mode, and has to be in %s\n", locked ? locked : "no", mode
            else if (substr(end, 1, 19) < substr(until, 1, 19))
                printf "is locked until %s, and has to be until %s\n", end, until
            if (bytes == "") exit
            if (header["content-length"] "" != bytes)
                printf "has %s bytes, and had %s\n", header["content-length"], bytes
            held = hexadecimal(header["x-amz-checksum-sha256"])
            if (held != sha256) printf "has the SHA-256 %s, and had %s\n", held ? held : "(none)", sha256
            lies = header["x-amz-storage-class"] ? header["x-amz-storage-class"] : "STANDARD"
            if (lies != class) printf "is in the class %s, and was put in %s\n", lies, class
        }' "$work/headers" >"$work/differs"
    while read -r how; do wrong "$1 $how"; done <"$work/differs"
}

read_content() { # KEY VERSION BYTES SHA256 CLASS RAW_SHA256 LINES
    if ! fetch "$1" "$2" "$work/object"; then
        case ${in_bucket:+$5} in
        GLACIER | DEEP_ARCHIVE) echo "COLD $1 has to be restored before it can be read" | tee -a "$work/cold" ;;
        *) wrong "$1 cannot be read in version $2" ;;
        esac
        return 0
    fi
    digest=$(digest_of "$work/object")
    [ "$digest" = "$4" ] || { wrong "$1 reads with the SHA-256 $digest, and had $4"; return 0; }
    case $1 in
    files/pack-*)
        tar -xf "$work/object" -C "$work" || wrong "$1 cannot be unpacked"
        check_files
        ;;
    esac
    [ "$6" != - ] || return 0
    zstd --decompress --quiet --force -o "$work/text" "$work/object" || { wrong "$1 cannot be decompressed"; return 0; }
    lines=$(($(wc -l <"$work/text")))
    [ "$(digest_of "$work/text")" = "$6" ] || wrong "$1 holds a text with another SHA-256 than it had"
    [ "$lines" = "$7" ] || wrong "$1 holds $lines lines, and had $7"
    case $1 in
    files/index-*) jq -r .sha256 "$work/text" | sort | uniq -c >"$work/pieces" ;;
    data/*) add_to_table "$(basename "$(dirname "$1")")" ;;
    esac
}

# The files of which all pieces are there.
check_files() {
    ls "$work/files" >"$work/there"
    awk 'NR == FNR { pieces[$2] = $1; next } { print $1, pieces[$1] + 0 }' "$work/pieces" "$work/there" >"$work/begun"
    while read -r sha256 pieces; do
        set -- "$work/files/$sha256"/*
        [ $# -eq "$pieces" ] || continue
        [ "$(cat "$@" | sha256sum | cut -d' ' -f1)" = "$sha256" ] || wrong "files/$sha256 has other bytes than were sent"
        rm -rf "$work/files/$sha256"
        echo "$sha256" >>"$work/whole"
    done <"$work/begun"
}

# A table's text is hashed as it comes, part by part: it may be larger than this disk.
table='' rows=0
add_to_table() { # TABLE: the next of its parts
    if [ "$table" != "$1" ]; then
        end_table
        table=$1 rows=0
        mkfifo "$work/parts"
        sha256sum <"$work/parts" >"$work/digest" &
        exec 3>"$work/parts"
    fi
    cat "$work/text" >&3
    rows=$((rows + lines))
}
end_table() {
    [ -n "$table" ] || return 0
    exec 3>&-
    wait
    rm "$work/parts"
    printf '%s\t%s\t%s\n' "$table" "$(cut -d' ' -f1 "$work/digest")" "$rows" >>"$work/tables"
}

check_objects() {
    # The index of the packs comes before them, and the parts of a table one after the other.
    value '[.definitions, .tables[].parts[], .access[], .events.parts[], .snapshots[], .files.index, .files.packs[],
        .reconciliation][] | [.key, .version, .bytes, .sha256, .storage_class, (.raw_sha256 // "-"), (.lines // "-")]
        | @tsv' >"$work/objects"
    retain_until=$(value '.policy.retain_until') mode=$(value .policy.mode)
    mkdir "$work/files"
    : >"$work/pieces"
    : >"$work/whole"
    : >"$work/tables"
    if [ -n "$in_bucket" ]; then
        while IFS=$tab read -r key version; do look_at "$key" "$version"; done <"$work/named"
    fi
    while IFS=$tab read -r key version bytes sha256 class raw_sha256 text_lines; do
        [ -n "$in_bucket" ] || version=-
        printf '%s\t%s\n' "$key" "$version" >>"$work/named"
        [ -z "$in_bucket" ] || look_at "$key" "$version" "$bytes" "$sha256" "$class"
        [ "$depth" != content ] ||
            read_content "$key" "$version" "$bytes" "$sha256" "$class" "$raw_sha256" "$text_lines"
    done <"$work/objects"
    end_table
    echo "$(($(wc -l <"$work/objects"))) objects were looked at."
}

# 5. The texts of parts come to those of tables, and the packs hold every file.
check_wholes() {
    [ "$depth" = content ] && [ ! -s "$work/cold" ] || return 0
    value '.tables[] | [.dataset, .text_sha256, .rows, (.parts | length)] | @tsv' >"$work/expected"
    while IFS=$tab read -r table sha256 rows parts; do
        [ "$parts" -gt 0 ] || continue
        grep -qxF "$table$tab$sha256$tab$rows" "$work/tables" || wrong "data/$table has parts that are not the whole table"
    done <"$work/expected"
    files=$(($(sort -u "$work/whole" | wc -l)))
    [ "$files" -eq "$(value .files.count)" ] || wrong "files/ has $files whole files, and had $(value .files.count)"
    echo "$files files came out of the packs as they were sent."
}

# 6. Nothing hides the objects, and nothing else lies beside them.
check_nothing_besides() {
    help_before=''
    while IFS=$tab read -r kind key version; do
        name=${key#"$prefix"/}
        if [ "$kind" = DeleteMarker ]; then
            wrong "$name has a delete marker, $version"
            continue
        fi
        case $name in
        README.txt | verify.sh)
            [ "$help_before" != "$name" ] || wrong "$name was put more than once"
            help_before=$name
            ;;
        *)
            grep -qxF "$name$tab$version" "$work/named" ||
                wrong "$name is no part of the archive${in_bucket:+ in version $version}"
            ;;
        esac
    done <"$work/versions"
}

# 7. All of it, one after the other.
begin "$@"
open_place
fetch_manifest
read_key
check_note "$work/MANIFEST.note"
[ -s "$work/wrong" ] || check_manifest "$work/MANIFEST.json"
[ ! -s "$work/wrong" ] || exit 1
check_manifest_place
check_previous
check_objects
check_wholes
check_nothing_besides
if [ -s "$work/wrong" ]; then
    echo "$(($(wc -l <"$work/wrong"))) things are wrong." >&2
    exit 1
fi
[ ! -s "$work/cold" ] || fail "Nothing is wrong, as far as it could be read. Restore the objects, and ask again."
echo "All of it is as it was signed."
