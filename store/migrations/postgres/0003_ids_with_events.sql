-- Whether events stand under `universal_id`: it is that of the strongest identifier of some event. Whoever looks for a
-- person's events need not do so under the others. Of rows that were there before nobody knows, so they may have some; nor
-- is it known of those that an older build still adds.
ALTER TABLE resolved_identities ADD COLUMN has_events boolean NOT NULL DEFAULT true;
