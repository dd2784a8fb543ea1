import {
  caretDownIcon,
  caretRightIcon,
  ellipsesIcon
} from '@jupyterlab/ui-components';
import React from 'react';
import { CommandIDs } from '../../commands';
import { CommandButton } from '../../components/button';
import { diffIcon, forkIcon, rollbackIcon } from '../../components/icons';
import type { IRow } from '../../components/rows';
import { openMenu, Rows } from '../../components/rows';
import { StateDot } from '../../components/state';
import { Warning } from '../../components/warning';
import type { HistoryRow } from '../../lineage';
import type { ISandbox, ISnapshot } from '../../tokens';
import { causeName, factsOf, nameOf } from '../../words';
import type { IPanelContext } from '../section';
import { Graph } from './graph';
import type { HistoryModel } from './model';

const HEIGHT = 40;

interface IProps {
  readonly model: HistoryModel;
  readonly context: IPanelContext;
}

type Row = HistoryRow & IRow;

export function HistoryBody({ model, context }: IProps): React.ReactElement {
  const { trans } = context;
  const { sandbox, rows } = model;
  if (!sandbox) {
    return (
      <p className="jp-VSandbox-empty">{trans.__('No sandbox, no history.')}</p>
    );
  }
  if (!rows) {
    return <p className="jp-VSandbox-empty">…</p>;
  }
  return (
    <Rows
      label={trans.__('History of %1', nameOf(sandbox))}
      height={HEIGHT}
      rows={rows.map(row => asRow(row, sandbox))}
      toggle={row => {
        model.toggle(row.key);
      }}
      render={(row: Row) => (
        <>
          <Graph row={row} height={HEIGHT} />
          {row.kind === 'head' ? (
            <Head sandbox={row.sandbox} own={sandbox} context={context} />
          ) : row.kind === 'fold' ? (
            <Fold row={row} model={model} context={context} />
          ) : (
            <Snapshot
              snapshot={row.snapshot}
              sandbox={sandbox}
              context={context}
            />
          )}
        </>
      )}
    />
  );
}

function asRow(row: HistoryRow, sandbox: ISandbox): Row {
  switch (row.kind) {
    case 'head':
      return {
        ...row,
        level: 1,
        current: row.sandbox.id === sandbox.id,
        data: { vsandbox: 'machine', kind: 'head', sandbox: row.sandbox.id }
      };
    case 'fold':
      return { ...row, level: 1, expanded: row.open, data: { kind: 'fold' } };
    case 'snapshot':
      return {
        ...row,
        level: row.folded ? 2 : 1,
        data: {
          vsandbox: 'snapshot',
          kind: 'snapshot',
          snapshot: row.snapshot.id,
          sandbox: sandbox.id
        }
      };
  }
}

function Head(props: {
  readonly sandbox: ISandbox;
  readonly own: ISandbox;
  readonly context: IPanelContext;
}): React.ReactElement {
  const { sandbox, own, context } = props;
  const { commands, store, trans } = context;
  return (
    <>
      <div className="jp-VSandbox-rowText">
        <div className="jp-VSandbox-rowName">
          {sandbox.id === own.id ? (
            <strong>{trans.__('Now')}</strong>
          ) : (
            <span>{nameOf(sandbox)}</span>
          )}
          <StateDot
            state={sandbox.state}
            busy={store.busy(sandbox.id)}
            trans={trans}
          />
          <Warning text={sandbox.history.warning} />
        </div>
      </div>
      <div className="jp-VSandbox-rowButtons">
        {sandbox.id === own.id ? null : (
          <CommandButton
            commands={commands}
            id={CommandIDs.diff}
            args={{ sandbox: sandbox.id, with: own.id }}
            icon={diffIcon}
            title={trans.__('Compare with this notebook’s machine')}
          />
        )}
        <More label={nameOf(sandbox)} context={context} />
      </div>
    </>
  );
}

function Fold(props: {
  readonly row: HistoryRow & { kind: 'fold' };
  readonly model: HistoryModel;
  readonly context: IPanelContext;
}): React.ReactElement {
  const { row, model, context } = props;
  const Icon = row.open ? caretDownIcon : caretRightIcon;
  return (
    <button
      type="button"
      className="jp-VSandbox-fold"
      // The row is in the tab order, and does the same.
      tabIndex={-1}
      aria-expanded={row.open}
      onClick={() => {
        model.toggle(row.key);
      }}
    >
      <Icon.react tag="span" width="14px" height="14px" />
      {context.trans._n(
        '%1 automatic snapshot',
        '%1 automatic snapshots',
        row.members.length
      )}
    </button>
  );
}

function Snapshot(props: {
  readonly snapshot: ISnapshot;
  readonly sandbox: ISandbox;
  readonly context: IPanelContext;
}): React.ReactElement {
  const { snapshot, sandbox, context } = props;
  const { commands, trans } = context;
  const args = { snapshot: snapshot.id, sandbox: sandbox.id };
  const cause = causeName(snapshot.cause, trans);
  const facts = factsOf(snapshot, trans);
  return (
    <>
      <div
        className="jp-VSandbox-rowText"
        title={[snapshot.name, cause, facts, snapshot.note, snapshot.warning]
          .filter(Boolean)
          .join('\n')}
      >
        <div className="jp-VSandbox-rowName">
          <span className={cause ? 'jp-mod-automatic' : ''}>
            {snapshot.name}
          </span>
          <Warning text={snapshot.warning} />
          {snapshot.note ? (
            <span className="jp-VSandbox-note">{snapshot.note}</span>
          ) : null}
        </div>
        <div className="jp-VSandbox-facts">{facts}</div>
      </div>
      <div className="jp-VSandbox-rowButtons">
        <CommandButton
          commands={commands}
          id={CommandIDs.rollback}
          args={args}
          icon={rollbackIcon}
          title={trans.__('Roll back to “%1”', snapshot.name)}
        />
        <CommandButton
          commands={commands}
          id={CommandIDs.fork}
          args={args}
          icon={forkIcon}
          title={
            sandbox.memory_anywhere === false
              ? trans.__(
                  'Fork from “%1”: the fork boots from its disk, without the variables',
                  snapshot.name
                )
              : trans.__('Fork from “%1”', snapshot.name)
          }
        />
        <CommandButton
          commands={commands}
          id={CommandIDs.diff}
          args={args}
          icon={diffIcon}
          title={trans.__('What changed since “%1”', snapshot.name)}
        />
        <More label={snapshot.name} context={context} />
      </div>
    </>
  );
}

/**
 * A button that opens the context menu of its row.
 */
export function More(props: {
  readonly label: string;
  readonly context: IPanelContext;
}): React.ReactElement {
  const title = props.context.trans.__('More for “%1”', props.label);
  return (
    <button
      type="button"
      className="jp-VSandbox-button"
      aria-haspopup="menu"
      aria-label={title}
      title={title}
      onClick={event => {
        event.stopPropagation();
        openMenu(event.currentTarget);
      }}
    >
      <ellipsesIcon.react tag="span" width="16px" height="16px" />
    </button>
  );
}
